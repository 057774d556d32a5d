"""From a packet to its service in a few steps: a tree of `-g` jumps, never a list of services.

Interface, then protocol, then port, then address. The tree is a trie over aligned blocks (ports and addresses
split in four at each level, empty levels left out), not a balanced tree, so that a chain's name and content
depend only on what lies in its block: a service that comes or goes touches the chains on its own path and no
others. Longest walk: 8 levels of 4 rules for the port.

Services are disjoint (validation), so a goto that finds nothing need not come back.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import groupby

from balancer.domain.types import Address, Network, Protocol, Service
from balancer.ruleset import names
from balancer.ruleset.ir import Goto, PortRange, Rule, Target

FAN_OUT = 4
_BITS = 2

Chains = dict[str, tuple[Rule, ...]]


@dataclass(frozen=True, slots=True)
class _Scope:
    """What has been settled on the way to a node, and where new chains go."""

    chains: Chains
    target: Callable[[Service], Target]
    interface: str
    protocol: Protocol

    def leaf(self, service: Service) -> Rule:
        """All conditions of one service; its name as the comment."""
        local = service.address is None
        network = None if service.address is None else ip_network(service.address)
        return Rule(
            target=self.target(service),
            destination=network,
            protocol=self.protocol,
            destination_ports=PortRange(service.port, service.last_port),
            destination_local=local,
            comment=service.name,
        )


def dispatch(
    services: Iterable[Service], *, root: str, target: Callable[[Service], Target]
) -> dict[str, tuple[Rule, ...]]:
    """Chains that lead from `root` to `target(service)`. `root` is always among them, maybe empty."""
    chains: Chains = {}
    by_interface: dict[str, list[Service]] = defaultdict(list)
    for service in services:
        by_interface[service.interface].append(service)
    chains[root] = _interfaces(sorted(by_interface), dict(by_interface), chains, target)
    return chains


def _interfaces(
    interfaces: list[str],
    services: dict[str, list[Service]],
    chains: Chains,
    target: Callable[[Service], Target],
    depth: int = 0,
) -> tuple[Rule, ...]:
    """Rules for sorted interface names; more than FAN_OUT of them split by the next letter of the name."""
    if len(interfaces) <= FAN_OUT:
        return tuple(rule for i in interfaces for rule in _protocols(i, services[i], chains, target))
    rules: list[Rule] = []
    depth = max(depth, len(_common_prefix(interfaces)))
    for prefix, group in groupby(interfaces, key=lambda name: name[: depth + 1]):
        members = list(group)
        if len(members) == 1:
            rules.extend(_protocols(members[0], services[members[0]], chains, target))
            continue
        prefix = _common_prefix(members)
        chain = names.interfaces_chain(prefix)
        chains[chain] = _interfaces(members, services, chains, target, len(prefix))
        rules.append(Rule(in_interface=f"{prefix}+", target=Goto(chain)))
    return tuple(rules)


def _protocols(
    interface: str, services: list[Service], chains: Chains, target: Callable[[Service], Target]
) -> list[Rule]:
    rules: list[Rule] = []
    for protocol in sorted({service.protocol for service in services}):
        scope = _Scope(chains, target, interface, protocol)
        ports: dict[int, list[Service]] = defaultdict(list)
        for service in services:
            if service.protocol is protocol:
                ports[service.port].append(service)
        found = _ports(scope, dict(sorted(ports.items())))
        if len(found) > FAN_OUT or len(ports) > FAN_OUT:
            chain = names.endpoint_chain(interface, protocol)
            chains[chain] = found
            found = (Rule(protocol=protocol, target=Goto(chain)),)
        rules.extend(replace(rule, in_interface=interface) for rule in found)
    return rules


def _ports(scope: _Scope, ports: dict[int, list[Service]]) -> tuple[Rule, ...]:
    """Rules that tell a few ports apart, or that split many of them into aligned blocks."""
    if len(ports) <= FAN_OUT:
        return tuple(rule for port, services in ports.items() for rule in _port(scope, port, services))
    rules: list[Rule] = []
    size = _block(min(ports), max(ports)) >> _BITS
    for _, group in groupby(ports.items(), key=lambda item: item[0] // size):
        part = dict(group)
        if len(part) == 1:
            rules.extend(_port(scope, *next(iter(part.items()))))
            continue
        inner = _block(min(part), max(part))
        first = min(part) // inner * inner
        chain = names.ports_chain(scope.interface, scope.protocol, first, first + inner - 1)
        scope.chains[chain] = _ports(scope, part)
        among = PortRange(first, first + inner - 1)
        rules.append(Rule(protocol=scope.protocol, destination_ports=among, target=Goto(chain)))
    return tuple(rules)


def _port(scope: _Scope, port: int, services: list[Service]) -> tuple[Rule, ...]:
    """One port: its addresses first, then any address."""
    if len(services) == 1:
        return (scope.leaf(services[0]),)
    exact = {service.address: service for service in services if service.address is not None}
    anywhere = tuple(scope.leaf(service) for service in services if service.address is None)
    chain = names.addresses_chain(scope.interface, scope.protocol, port, None)
    scope.chains[chain] = _addresses(scope, port, exact, anywhere)
    return (Rule(protocol=scope.protocol, destination_ports=PortRange(port, port), target=Goto(chain)),)


def _addresses(
    scope: _Scope, port: int, services: dict[Address, Service], anywhere: tuple[Rule, ...]
) -> tuple[Rule, ...]:
    """Rules that tell addresses apart. Each chain ends with the any-address service: nothing comes back from
    a goto to look for it."""
    ordered = sorted(services, key=int)
    if len(ordered) <= FAN_OUT:
        return (*(scope.leaf(services[address]) for address in ordered), *anywhere)
    whole = _network(ordered)
    shift = whole.max_prefixlen - whole.prefixlen - _BITS
    rules: list[Rule] = []
    for _, group in groupby(ordered, key=lambda address: int(address) >> shift):
        part = {address: services[address] for address in group}
        if len(part) == 1:
            rules.append(scope.leaf(next(iter(part.values()))))
            continue
        network = _network(list(part))
        chain = names.addresses_chain(scope.interface, scope.protocol, port, network)
        scope.chains[chain] = _addresses(scope, port, part, anywhere)
        rules.append(Rule(destination=network, target=Goto(chain)))
    return (*rules, *anywhere)


def _common_prefix(ordered: list[str]) -> str:
    """Of sorted names: what the first and the last begin with, all begin with."""
    first, last = ordered[0], ordered[-1]
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _block(low: int, high: int) -> int:
    """Size of the smallest block, aligned and of a power of FAN_OUT, that holds both numbers."""
    size = 1
    while low // size != high // size:
        size <<= _BITS
    return size


def _network(addresses: list[Address]) -> Network:
    """The smallest network, its prefix a multiple of _BITS, that holds all of the sorted addresses."""
    size = _block(int(addresses[0]), int(addresses[-1]))
    prefix = addresses[0].max_prefixlen - (size.bit_length() - 1)
    return ip_network(f"{addresses[0]}/{prefix}", strict=False)
