"""From a packet to its service in a few steps: a tree of `-g` jumps, never a list of services.

Interface, then protocol, then port, then address. A service with several interfaces, addresses or ports is
found at each of them. Ranges of ports that overlap are cut where another one begins or ends (`_segments`), so
that ports are disjoint when the tree is made of them. The tree is a trie over aligned blocks (ports and
addresses split in four at each level, empty levels left out), not a balanced tree, so that a chain's name and
content depend only on what lies in its block: a service that comes or goes touches the chains on its own path
and at most one more, that of the block which was last before. Longest walk: 3 rules at each of 8 levels for
the port and one more at the last, and up to 3 ranges more at each level that reach across its blocks.

Services are disjoint (validation), so a goto that finds nothing need not come back.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import groupby, pairwise

from balancer.domain.types import Address, Network, PortRange, Protocol, Service
from balancer.ruleset import names
from balancer.ruleset.ir import Rule
from balancer.ruleset.targets import Goto, Target

FAN_OUT = 4
_BITS = 2

Chains = dict[str, tuple[Rule, ...]]


@dataclass(frozen=True, slots=True)
class _Place:
    """A service where it is found: at one range of ports, and at one address or at any."""

    service: Service
    ports: PortRange
    address: Address | None


_Segments = dict[PortRange, list[_Place]]
"""Disjoint, in ascending order."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What has been settled on the way to a node, and where new chains go."""

    chains: Chains
    target: Callable[[Service], Target]
    interface: str
    """For the names of chains; empty for what the node itself sends."""
    protocol: Protocol

    def leaf(self, place: _Place) -> Rule:
        """All conditions of one service; its name as the comment."""
        return Rule(
            target=self.target(place.service),
            destination=None if place.address is None else ip_network(place.address),
            protocol=self.protocol,
            destination_ports=place.ports,
            destination_local=place.address is None,
            comment=place.service.name,
        )


def dispatch(
    services: Iterable[Service], *, root: str, target: Callable[[Service], Target], label: str = ""
) -> dict[str, tuple[Rule, ...]]:
    """Chains that lead from `root` to `target(service)`. `root` is always among them, maybe empty.

    `label` keeps the names of two trees in one table apart.
    """
    chains: Chains = {}
    by_interface: dict[str, list[Service]] = defaultdict(list)
    for service in services:
        for interface in service.interfaces:
            by_interface[interface].append(service)
    chains[root] = _interfaces(sorted(by_interface), dict(by_interface), chains, target, label=label)
    return chains


def dispatch_from_node(
    services: Iterable[Service], *, root: str, target: Callable[[Service], Target], label: str = ""
) -> dict[str, tuple[Rule, ...]]:
    """The same for what the node itself sends, which comes in on no interface."""
    chains: Chains = {}
    chains[root] = tuple(_protocols("", list(services), chains, target, label))
    return chains


def dispatch_sources(
    sources: Iterable[Address], *, target: Target, name: Callable[[Network | None], str]
) -> dict[str, tuple[Rule, ...]]:
    """Chains in which a packet from one of the addresses meets `target`; the first is called `name(None)`."""
    chains: Chains = {}
    chains[name(None)] = _sources(sorted(set(sources), key=int), target, name, chains)
    return chains


def _sources(
    ordered: list[Address], target: Target, name: Callable[[Network | None], str], chains: Chains
) -> tuple[Rule, ...]:
    if len(ordered) <= FAN_OUT:
        return tuple(Rule(source=ip_network(address), target=target) for address in ordered)
    rules: list[Rule] = []
    for part in _split(ordered):
        if len(part) == 1:
            rules.append(Rule(source=ip_network(part[0]), target=target))
            continue
        network = _network(part)
        chains[name(network)] = _sources(part, target, name, chains)
        rules.append(Rule(source=network, target=Goto(name(network))))
    return tuple(rules)


def _interfaces(
    interfaces: list[str],
    services: dict[str, list[Service]],
    chains: Chains,
    target: Callable[[Service], Target],
    depth: int = 0,
    *,
    label: str,
) -> tuple[Rule, ...]:
    """Rules for sorted interface names; more than FAN_OUT of them split by the next letter of the name."""
    if len(interfaces) <= FAN_OUT:
        return tuple(rule for i in interfaces for rule in _protocols(i, services[i], chains, target, label))
    rules: list[Rule] = []
    depth = max(depth, len(_common_prefix(interfaces)))
    for prefix, group in groupby(interfaces, key=lambda name: name[: depth + 1]):
        members = list(group)
        if len(members) == 1:
            rules.extend(_protocols(members[0], services[members[0]], chains, target, label))
            continue
        prefix = _common_prefix(members)
        chain = names.interfaces_chain(label + prefix)
        chains[chain] = _interfaces(members, services, chains, target, len(prefix), label=label)
        rules.append(Rule(in_interface=f"{prefix}+", target=Goto(chain)))
    return tuple(rules)


def _protocols(
    interface: str, services: list[Service], chains: Chains, target: Callable[[Service], Target], label: str
) -> list[Rule]:
    rules: list[Rule] = []
    for protocol in sorted({service.protocol for service in services}):
        scope = _Scope(chains, target, label + interface, protocol)
        segments = _segments([service for service in services if service.protocol is protocol])
        found = _ports(scope, segments)
        if len(found) > FAN_OUT or len(segments) > FAN_OUT:
            chain = names.endpoint_chain(scope.interface, protocol)
            chains[chain] = found
            found = (Rule(protocol=protocol, target=Goto(chain)),)
        rules.extend(replace(rule, in_interface=interface or None) for rule in found)
    return rules


def _segments(services: list[Service]) -> _Segments:
    """Who is found where: all ports, cut so that nobody's range begins or ends inside of a segment."""
    places = [
        _Place(service, ports, address)
        for service in services
        for ports in service.port_ranges
        for address in service.addresses or (None,)
    ]
    opening: dict[int, list[_Place]] = defaultdict(list)
    for place in places:
        opening[place.ports.first].append(place)
    cuts = sorted({edge for place in places for edge in (place.ports.first, place.ports.last + 1)})
    segments: _Segments = {}
    here: list[_Place] = []
    for first, end in pairwise(cuts):
        here = [place for place in here if place.ports.last >= first] + opening[first]
        if here:
            ports = PortRange(first, end - 1)
            segments[ports] = [replace(place, ports=ports) for place in here]
    return segments


def _ports(scope: _Scope, segments: _Segments) -> tuple[Rule, ...]:
    """Rules that tell a few ports apart, or that split many of them into aligned blocks. The last block needs
    no chain: nothing comes behind it, so that its rules can stand here."""
    if len(segments) <= FAN_OUT:
        return tuple(rule for ports, places in segments.items() for rule in _port(scope, ports, places))
    size = block_of(*_reach(segments)) >> _BITS
    # What reaches across blocks comes first: no goto to one of these blocks would come back to look for it.
    rules = [
        rule
        for ports, places in segments.items()
        if _reaches_across(ports, size)
        for rule in _port(scope, ports, places)
    ]
    within = ((ports, places) for ports, places in segments.items() if not _reaches_across(ports, size))
    *parts, last = (dict(group) for _, group in groupby(within, key=lambda item: item[0].first // size))
    for part in parts:
        if len(part) == 1:
            rules.extend(_port(scope, *next(iter(part.items()))))
            continue
        low, high = _reach(part)
        inner = block_of(low, high)
        first = low // inner * inner
        chain = names.ports_chain(scope.interface, scope.protocol, first, first + inner - 1)
        scope.chains[chain] = _ports(scope, part)
        among = PortRange(first, first + inner - 1)
        rules.append(Rule(protocol=scope.protocol, destination_ports=among, target=Goto(chain)))
    return (*rules, *_ports(scope, last))


def _reaches_across(ports: PortRange, size: int) -> bool:
    return ports.first // size != ports.last // size


def _reach(segments: _Segments) -> tuple[int, int]:
    return next(iter(segments)).first, next(reversed(segments)).last


def _port(scope: _Scope, ports: PortRange, places: list[_Place]) -> tuple[Rule, ...]:
    """One port, or a range that nobody divides: its addresses first, then any address."""
    if len(places) == 1:
        return (scope.leaf(places[0]),)
    exact = {place.address: place for place in places if place.address is not None}
    anywhere = tuple(scope.leaf(place) for place in places if place.address is None)
    chain = names.addresses_chain(scope.interface, scope.protocol, ports, None)
    scope.chains[chain] = _addresses(scope, ports, exact, anywhere)
    return (Rule(protocol=scope.protocol, destination_ports=ports, target=Goto(chain)),)


def _addresses(
    scope: _Scope, ports: PortRange, places: dict[Address, _Place], anywhere: tuple[Rule, ...]
) -> tuple[Rule, ...]:
    """Rules that tell addresses apart. Each chain ends with the any-address service: nothing comes back from
    a goto to look for it."""
    ordered = sorted(places, key=int)
    if len(ordered) <= FAN_OUT:
        return (*(scope.leaf(places[address]) for address in ordered), *anywhere)
    rules: list[Rule] = []
    *parts, last = ({address: places[address] for address in members} for members in _split(ordered))
    for part in parts:
        members = list(part)
        if len(part) == 1:
            rules.append(scope.leaf(part[members[0]]))
            continue
        network = _network(members)
        chain = names.addresses_chain(scope.interface, scope.protocol, ports, network)
        scope.chains[chain] = _addresses(scope, ports, part, anywhere)
        rules.append(Rule(destination=network, target=Goto(chain)))
    return (*rules, *_addresses(scope, ports, last, anywhere))


def _split(ordered: list[Address]) -> list[list[Address]]:
    """Sorted addresses by the next bits in which they differ."""
    whole = _network(ordered)
    shift = whole.max_prefixlen - whole.prefixlen - _BITS
    return [list(group) for _, group in groupby(ordered, key=lambda address: int(address) >> shift)]


def _common_prefix(ordered: list[str]) -> str:
    """Of sorted names: what the first and the last begin with, all begin with."""
    first, last = ordered[0], ordered[-1]
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def block_of(low: int, high: int) -> int:
    """Size of the smallest block, aligned and a power of FAN_OUT, that holds both numbers."""
    size = 1
    while low // size != high // size:
        size <<= _BITS
    return size


def _network(addresses: list[Address]) -> Network:
    """The smallest network, its prefix a multiple of _BITS, that holds all of the sorted addresses."""
    size = block_of(int(addresses[0]), int(addresses[-1]))
    prefix = addresses[0].max_prefixlen - (size.bit_length() - 1)
    return ip_network(f"{addresses[0]}/{prefix}", strict=False)
