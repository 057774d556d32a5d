"""Where a rehearsal reaches a service: every interface, address and end of a range of ports. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from balancer.domain.types import Address, PortRange, Service, SourceNat, format_endpoint

PORTS_MAX = 12
PLACES_MAX = 60
"""Of one service; of more, as many that are evenly spread."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    interface: str
    """By which the clients come in; empty for what the node itself sends."""
    address: Address
    port: int

    @property
    def endpoint(self) -> str:
        return format_endpoint(address=self.address, port=self.port)

    def __str__(self) -> str:
        return f"{self.endpoint} on {self.interface}" if self.interface else f"{self.endpoint} from the node"


def list_places(service: Service, *, own: Callable[[str], Address]) -> tuple[Place, ...]:
    """Of one interface after the other. `own` is the node's address on an interface, where any will do."""
    return thin_out(
        [
            Place(interface=interface, address=address, port=port)
            for interface in service.interfaces
            for address, port in product(service.addresses or (own(interface),), asked_ports(service))
        ],
        count=PLACES_MAX,
    )


def list_own_places(places: Sequence[Place]) -> tuple[Place, ...]:
    """The same addresses and ports as the node itself would reach them."""
    found = (Place(interface="", address=place.address, port=place.port) for place in places)
    return tuple(dict.fromkeys(found))


def asked_ports(service: Service) -> tuple[int, ...]:
    """The ends of each range, and the middle of a longer one; the service's own port is always first."""
    ports = dict.fromkeys(port for ports in service.port_ranges for port in _ends(ports))
    return (service.port, *thin_out([port for port in ports if port != service.port], count=PORTS_MAX - 1))


def _ends(ports: PortRange) -> tuple[int, int, int]:
    return ports.first, (ports.first + ports.last) // 2, ports.last


def backend_ports(service: Service) -> set[int]:
    """Where its backends get what comes in at the ports that are asked."""
    asked = asked_ports(service)
    return {service.backend_port(backend, port) for backend in service.backends for port in asked}


def is_in_pool(address: Address, nat: SourceNat) -> bool:
    """Whether it is the address, or one of those, that source NAT of mode snat gives out."""
    if nat.address is None or nat.address.version != address.version:
        return False
    return int(nat.address) <= int(address) <= int(nat.address_end or nat.address)


def thin_out(items: Sequence[_T], *, count: int) -> tuple[_T, ...]:
    """At most `count`, evenly spread, the first among them."""
    if len(items) <= count:
        return tuple(items)
    return tuple(items[number * len(items) // count] for number in range(count))


def spread(places: Sequence[Place], *, count: int) -> tuple[Place, ...]:
    """One place for each of `count` connections: each in turn, those of one interface together."""
    if count < len(places):
        return thin_out(places, count=count)
    turns = [number % len(places) for number in range(count)]
    interfaces = list(dict.fromkeys(place.interface for place in places))
    return tuple(sorted((places[turn] for turn in turns), key=lambda p: interfaces.index(p.interface)))
