"""The packets of balanced connections, as our own rules and the routes to the backends tell them.

Native rules are asked about these and no others: that Docker or libvirt drop what goes to their own bridges
concerns nobody whose backends are elsewhere.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TypeVar

from balancer.domain.types import Address, Family
from balancer.kernel.base import KernelError
from balancer.kernel.native_match import Packets, Ports
from balancer.kernel.tools import run_tool
from balancer.ruleset import names
from balancer.ruleset.ir import OWN_PREFIX

BACKENDS_MAX = 5_000
"""Beyond so many their addresses are not told apart, nor their ways looked up."""
DOORS_MAX, PORTS_MAX = 100, 50
"""Beyond so many (places where services take clients; ports of backends) they are taken together."""
ROUTES_SECONDS = 5.0

_DOOR = re.compile(
    r"(?:-d (?P<address>\S+) )?(?:-i (?P<interface>\S+) )?-p (?P<protocol>\w+)"
    r" .*--dport (?P<ports>\S+) .*-g LB-S-"
)
_BACKEND = re.compile(
    r"(?:.*-p (?P<protocol>\w+) )?.*-j DNAT --to-destination"
    r" (?:\[(?P<ipv6>\S+)\]|(?P<ipv4>[\d.]+)|(?P<bare>[0-9a-f:.]+))(?::(?P<ports>[\d/-]+))?(?: |$)"
)
_ROUTE = re.compile(r"(?P<local>local )?(?P<address>\S+) (?:.* )?dev (?P<interface>\S+)")

T = TypeVar("T")
Chains = Mapping[str, tuple[str, ...]]
Ways = Mapping[Address, tuple[str, bool]]
"""Backend -> the interface by which it is reached, and whether it is an address of this machine."""
FindWays = Callable[[Iterable[Address]], Ways]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """Packets by the hook at which native rules meet them."""

    arriving: tuple[Packets, ...] = ()
    """Of new connections, before we have chosen a backend."""
    forwarded: tuple[Packets, ...] = ()
    delivered: tuple[Packets, ...] = ()
    """To backends on this machine."""
    sent: tuple[Packets, ...] = ()
    """By this machine, through its own services."""


@dataclass(frozen=True, slots=True)
class Backend:
    address: Address
    protocol: str | None
    ports: Ports | None


@dataclass(frozen=True, slots=True)
class Door:
    """Where a service takes clients; an address or an interface of None is not said by the rule."""

    protocol: str
    ports: Ports
    address: Address | None
    interface: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What our own rules say of where balanced packets come in and go to."""

    backends: frozenset[Backend] = frozenset()
    doors: frozenset[Door] = frozenset()
    interfaces: frozenset[str] | None = None
    """On which clients come in; None where some rule does not say so."""
    sends: bool = False
    """Services take connections of this machine too."""


def find_ways(addresses: Iterable[Address]) -> Ways:
    """Those that have a route; nothing where routes cannot be read."""
    questions = "".join(f"route get {address}\n" for address in addresses)
    try:
        done = run_tool(
            ["ip", "-oneline", "-force", "-batch", "-"], text=questions, timeout_seconds=ROUTES_SECONDS
        )
    except KernelError:
        return {}
    found: dict[Address, tuple[str, bool]] = {}
    for line in done.output.splitlines():
        route = _ROUTE.match(line)
        if route is not None:
            found[ip_address(route["address"])] = route["interface"], route["local"] is not None
    return found


def find_ends(nat: Chains) -> Ends:
    """Of the nat table with our chains in it, ours as iptables-save spells them."""
    own = {chain: rules for chain, rules in nat.items() if chain.startswith(OWN_PREFIX)}
    to = {rule for rules in own.values() for rule in rules if " DNAT " in rule}
    through = {rule for rules in own.values() for rule in rules if " -g LB-S-" in rule}
    return Ends(
        backends=frozenset(_backend(found) for rule in to if (found := _BACKEND.match(rule))),
        doors=frozenset(_door(found) for rule in through if (found := _DOOR.match(rule))),
        interfaces=_interfaces(own.get(names.PREROUTING, ())),
        sends=names.OUTPUT in own,
    )


def find_balanced(ends: Ends, *, family: Family, ways: FindWays = find_ways) -> Balanced:
    """Nothing where there is no backend."""
    if not ends.backends:
        return Balanced()
    to_backends = [
        _to_backends(group, way, family) for way, group in sorted(_by_way(ends.backends, ways).items())
    ]
    forwarded = [replace(one, in_interfaces=ends.interfaces) for one, local in to_backends if not local]
    delivered = [replace(one, in_interfaces=ends.interfaces) for one, local in to_backends if local]
    sent = [replace(one, in_interfaces=frozenset()) for one, _ in to_backends] if ends.sends else []
    return Balanced(
        arriving=_arriving(ends, family),
        forwarded=tuple(each for one in forwarded for each in (one, *_later(one))),
        delivered=tuple(delivered),
        sent=tuple(sent),
    )


def _backend(found: re.Match[str]) -> Backend:
    address, ports = found["ipv6"] or found["ipv4"] or found["bare"], None
    if found["ports"]:
        first, _, last = found["ports"].partition("/")[0].partition("-")
        ports = int(first), int(last or first)
    return Backend(ip_address(address), found["protocol"], ports)


def _interfaces(rules: Iterable[str]) -> frozenset[str] | None:
    """On which clients come in, where every rule that leads to a service says so."""
    found = set()
    for rule in rules:
        if f" -g {OWN_PREFIX}" not in f" {rule}":
            continue
        words = rule.split()
        if "-i" not in words or words[words.index("-i") + 1].endswith("+"):
            return None
        found.add(words[words.index("-i") + 1])
    return frozenset(found) or None


def _by_way(backends: frozenset[Backend], ways: FindWays) -> Mapping[tuple[str, bool], list[Backend]]:
    addresses = sorted({one.address for one in backends}, key=int)
    known = ways(addresses) if len(addresses) <= BACKENDS_MAX else {}
    groups: dict[tuple[str, bool], list[Backend]] = defaultdict(list)
    for one in sorted(backends, key=str):
        groups[known.get(one.address, ("", False))].append(one)
    return groups


def _to_backends(group: list[Backend], way: tuple[str, bool], family: Family) -> tuple[Packets, bool]:
    interface, local = way
    few = len(group) <= BACKENDS_MAX
    ports = {one.ports for one in group}
    protocols = {one.protocol for one in group}
    addresses = sorted({str(one.address) for one in group})
    named = ", ".join(addresses[:3]) + (f" and {len(addresses) - 3} more" if len(addresses) > 3 else "")
    packets = Packets(
        words=f"new connections to {named}",
        family=family,
        protocols=_all_known(protocols) or frozenset({"tcp", "udp"}),
        out_interfaces=frozenset({interface}) if interface and not local else None,
        destinations=tuple(sorted({int(one.address) for one in group})) if few else None,
        destination_ports=_all_known(ports) if len(ports) <= PORTS_MAX else None,
    )
    return packets, local


def _all_known(values: set[T | None]) -> frozenset[T] | None:
    known = frozenset(value for value in values if value is not None)
    return known if len(known) == len(values) else None


def _later(new: Packets) -> tuple[Packets, Packets]:
    """Packets of connections that stand, and their answers."""
    words = new.words.removeprefix("new ")
    answers = Packets(
        words=words.replace("connections to", "answers of"),
        family=new.family,
        state="established",
        reply=True,
        protocols=new.protocols,
        in_interfaces=new.out_interfaces,
        out_interfaces=new.in_interfaces,  # the way by which the client came
        sources=new.destinations,
        source_ports=new.destination_ports,
    )
    return replace(new, words=f"established {words}", state="established"), answers


def _door(found: re.Match[str]) -> Door:
    first, _, last = found["ports"].partition(":")
    address = ip_network(found["address"]).network_address if found["address"] else None
    return Door(found["protocol"], (int(first), int(last or first)), address, found["interface"])


def _arriving(ends: Ends, family: Family) -> tuple[Packets, ...]:
    """One for each door; one for all of them where they are many."""
    if len(ends.doors) > DOORS_MAX:
        words = "new connections to services"
        return (Packets(words=words, family=family, translated=False, in_interfaces=ends.interfaces),)
    return tuple(_at_door(door, ends.interfaces, family) for door in sorted(ends.doors, key=str))


def _at_door(door: Door, interfaces: frozenset[str] | None, family: Family) -> Packets:
    first, last = door.ports
    return Packets(
        words=f"new connections to {door.protocol} port {first if first == last else f'{first}-{last}'}",
        family=family,
        translated=False,
        protocols=frozenset({door.protocol}),
        in_interfaces=frozenset({door.interface}) if door.interface else interfaces,
        destinations=(int(door.address),) if door.address else None,
        destination_ports=frozenset({door.ports}),
    )
