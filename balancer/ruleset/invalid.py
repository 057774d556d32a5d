"""Where packets that conntrack calls INVALID are dropped: by the service they are for, or by the backend that
they come from.

Neither is translated. One for a service would reach the node's own TCP, and one of a backend the node's or
the client's, which know of no such connection and reset it (kubernetes/kubernetes#74839).

Backends stand in a trie over address and port, as places do in `dispatch`: what they are is one number, the
address before the port, and blocks of numbers split in four at each level. Of the parts of a block the
largest has no chain of its own, so that no way leads through more chains than the number of backends has
binary digits: nft takes few. Every backend of a service stands there, also while it gets no connections, so
that states, weights, overrides and health change none of these chains.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import groupby

from balancer.domain.limits import BITS
from balancer.domain.types import Address, Family, Network, PortRange, Protocol, Service
from balancer.ruleset import access, names
from balancer.ruleset.dispatch import FAN_OUT, block_of, dispatch
from balancer.ruleset.ir import NEITHER_SYN_NOR_RST, Rule
from balancer.ruleset.targets import Drop, Goto, Jump

_PORT_BITS = 16

Chains = dict[str, tuple[Rule, ...]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Ports of one address from which backends send, and the services whose backends these are."""

    address: Address
    ports: PortRange
    services: tuple[Service, ...]

    @property
    def low(self) -> int:
        return (int(self.address) << _PORT_BITS) + self.ports.first

    @property
    def high(self) -> int:
        return (int(self.address) << _PORT_BITS) + self.ports.last

    def leaf(self) -> Rule:
        """Counted for the service, and maybe logged, where there is one alone."""
        alone = self.services[0] if len(self.services) == 1 else None
        return Rule(
            source=ip_network(self.address),
            protocol=Protocol.TCP,
            source_ports=self.ports,
            comment=alone.name if alone else None,
            target=access.invalid_target(alone) if alone else Drop(),
        )


def invalid_chains(services: Sequence[Service], *, family: Family) -> Chains:
    """Chains of the table filter that begin with LB-INVALID; none where no service drops such packets."""
    if not any(service.access.drop_invalid for service in services):
        return {}
    chains = dispatch(services, root=names.INVALID, target=access.invalid_target)
    for service in services:
        chains.update(access.invalid_chains(service))
    if places := _places(services):
        chains[names.BACKENDS] = _Tree(family, chains).rules(places)
        # First, for nothing comes back from the gotos behind it.
        chains[names.INVALID] = (_to_backends(places, family), *chains[names.INVALID])
    return chains


def _to_backends(places: Sequence[_Place], family: Family) -> Rule:
    """Whoever is in no network of backends meets this one rule of them.

    Nobody answers a RST. A SYN, ACK is INVALID where the node sees only the answers of a connection that is
    not its own: it routes for the backend, whom the client reached on another way.
    """
    network = _network(places[0].low, places[-1].high, family)
    return Rule(
        source=network if network.prefixlen else None,
        protocol=Protocol.TCP,
        tcp_flags=NEITHER_SYN_NOR_RST,
        target=Jump(names.BACKENDS),
    )


def _places(services: Iterable[Service]) -> list[_Place]:
    """Disjoint, in ascending order."""
    found: dict[Address, list[_Place]] = defaultdict(list)
    for service in services:
        if service.access.drop_invalid and service.protocol is Protocol.TCP:
            for backend in service.backends:
                for ports in service.port_ranges:
                    first, last = (service.backend_port(backend, port) for port in (ports.first, ports.last))
                    place = _Place(backend.address, PortRange(first, last), (service,))
                    found[backend.address].append(place)
    return [place for address in sorted(found, key=int) for place in _joined(found[address])]


def _joined(places: list[_Place]) -> Iterator[_Place]:
    """Those of one address; where ports are used by several services these stand together."""
    here, *rest = sorted(places, key=lambda place: (place.ports, place.services[0].name))
    for place in rest:
        if place.ports.first > here.ports.last:
            yield here
            here = place
        else:
            ports = PortRange(here.ports.first, max(here.ports.last, place.ports.last))
            more = tuple(service for service in place.services if service not in here.services)
            here = _Place(here.address, ports, here.services + more)
    yield here


@dataclass(frozen=True, slots=True)
class _Tree:
    family: Family
    chains: Chains

    def rules(self, places: Sequence[_Place]) -> tuple[Rule, ...]:
        if len(places) <= FAN_OUT:
            return tuple(place.leaf() for place in places)
        part = block_of(places[0].low, places[-1].high) // FAN_OUT
        within, rules = [], []
        for place in places:
            if place.low // part == place.high // part:
                within.append(place)
            else:  # a goto to one of these parts would not come back to look for it
                rules.append(place.leaf())
        parts = [list(group) for _, group in groupby(within, key=lambda place: place.low // part)]
        largest = max(parts, key=len)
        for members in parts:
            if len(members) == 1:
                rules.append(members[0].leaf())
            elif members is not largest:
                rules.append(self._lead_to(members))
        return (*rules, *(self.rules(largest) if len(largest) > 1 else ()))

    def _lead_to(self, members: Sequence[_Place]) -> Rule:
        low, high = members[0].low, members[-1].high
        network, size = _network(low, high, self.family), block_of(low, high)
        ports = None
        if size < 1 << _PORT_BITS:
            first = low // size * size % (1 << _PORT_BITS)
            ports = PortRange(first, first + size - 1)
        chain = names.backends_chain(network, ports)
        self.chains[chain] = self.rules(members)
        return Rule(
            source=network,
            protocol=Protocol.TCP if ports else None,
            source_ports=ports,
            target=Goto(chain),
        )


def _network(low: int, high: int, family: Family) -> Network:
    """The smallest one, its prefix even, that holds the addresses of both."""
    size = block_of(low >> _PORT_BITS, high >> _PORT_BITS)
    bits = BITS[family]
    first = int(low >> _PORT_BITS) // size * size
    address = ip_address(first.to_bytes(bits // 8))
    return ip_network((address, bits - (size.bit_length() - 1)))
