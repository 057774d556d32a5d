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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import groupby

from balancer.domain.limits import BITS
from balancer.domain.types import Family, Network, PortRange, Protocol, Service
from balancer.ruleset import access, names
from balancer.ruleset.dispatch import FAN_OUT, block_of, dispatch
from balancer.ruleset.ir import NEITHER_SYN_NOR_RST, Rule
from balancer.ruleset.targets import Drop, Goto, Jump

_PORT_BITS = 16

Chains = dict[str, tuple[Rule, ...]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Ports of one address from which backends send, and the services whose backends these are."""

    low: int
    """Address and port in one number."""
    high: int
    services: tuple[Service, ...]


def invalid_chains(services: Sequence[Service], *, family: Family) -> Chains:
    """Chains of the table filter that begin with LB-INVALID; none where no service drops such packets."""
    if not any(service.access.drop_invalid for service in services):
        return {}
    chains = dispatch(services, root=names.INVALID, target=access.invalid_target)
    for service in services:
        chains.update(access.invalid_chains(service))
    if places := list(_joined(_places(services))):
        tree = _Tree(family, chains)
        chains[names.BACKENDS] = tree.rules(places)
        # First, for nothing comes back from the gotos behind it.
        chains[names.INVALID] = (tree.entrance(places), *chains[names.INVALID])
    return chains


def _places(services: Iterable[Service]) -> Iterator[_Place]:
    for service in services:
        if service.access.drop_invalid and service.protocol is Protocol.TCP:
            for backend in service.backends:
                start = int(backend.address) << _PORT_BITS
                for ports in service.port_ranges:
                    first, last = (service.backend_port(backend, port) for port in (ports.first, ports.last))
                    yield _Place(start + first, start + last, (service,))


def _joined(places: Iterable[_Place]) -> Iterator[_Place]:
    """In ascending order; where ports are used by several services these stand together."""
    here: _Place | None = None
    for place in sorted(places, key=lambda place: (place.low, place.high, place.services[0].name)):
        if here is not None and place.low <= here.high:
            more = tuple(service for service in place.services if service not in here.services)
            here = _Place(here.low, max(here.high, place.high), here.services + more)
            continue
        if here is not None:
            yield here
        here = place
    if here is not None:
        yield here


@dataclass(frozen=True, slots=True)
class _Tree:
    family: Family
    chains: Chains

    def entrance(self, places: Sequence[_Place]) -> Rule:
        """Whoever is in no network of backends meets this one rule of them.

        Nobody answers a RST. A SYN, ACK is INVALID where the node sees only the answers of a connection that
        is not its own: it routes for the backend, whom the client reached on another way.
        """
        network = self._network(places[0].low, places[-1].high)
        return Rule(
            source=network if network.prefixlen else None,
            protocol=Protocol.TCP,
            tcp_flags=NEITHER_SYN_NOR_RST,
            target=Jump(names.BACKENDS),
        )

    def rules(self, places: Sequence[_Place]) -> tuple[Rule, ...]:
        if len(places) <= FAN_OUT:
            return tuple(self._leaf(place) for place in places)
        part = block_of(places[0].low, places[-1].high) // FAN_OUT
        within, rules = [], []
        for place in places:
            if place.low // part == place.high // part:
                within.append(place)
            else:  # a goto to one of these parts would not come back to look for it
                rules.append(self._leaf(place))
        parts = [list(group) for _, group in groupby(within, key=lambda place: place.low // part)]
        largest = max(parts, key=len)
        for members in parts:
            if members is not largest:
                rules.append(self._lead_to(members) if len(members) > 1 else self._leaf(members[0]))
        return (*rules, *self.rules(largest))

    def _lead_to(self, members: Sequence[_Place]) -> Rule:
        low, high = members[0].low, members[-1].high
        network, size = self._network(low, high), block_of(low, high)
        ports = None
        if size < 1 << _PORT_BITS:
            first = _port(low) // size * size
            ports = PortRange(first, first + size - 1)
        chain = names.backends_chain(network, ports)
        self.chains[chain] = self.rules(members)
        protocol = Protocol.TCP if ports else None
        return Rule(source=network, protocol=protocol, source_ports=ports, target=Goto(chain))

    def _leaf(self, place: _Place) -> Rule:
        """Counted for the service, and maybe logged, where there is one alone."""
        alone = place.services[0] if len(place.services) == 1 else None
        return Rule(
            source=self._network(place.low, place.high),
            protocol=Protocol.TCP,
            source_ports=PortRange(_port(place.low), _port(place.high)),
            comment=alone.name if alone else None,
            target=access.invalid_target(alone) if alone else Drop(),
        )

    def _network(self, low: int, high: int) -> Network:
        """The smallest one, its prefix even, that holds the addresses of both."""
        kind = IPv6Network if self.family is Family.IPV6 else IPv4Network
        size = block_of(low >> _PORT_BITS, high >> _PORT_BITS)
        return kind(((low >> _PORT_BITS) // size * size, BITS[self.family] - (size.bit_length() - 1)))


def _port(number: int) -> int:
    return number % (1 << _PORT_BITS)
