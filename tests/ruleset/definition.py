"""What must become of a packet, by the definition of a document and not by rules."""

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import product

from balancer.domain.types import Backend, Document, Service, format_endpoint
from balancer.ruleset import names
from balancer.ruleset.matching import Packet
from balancer.ruleset.service import KNOWN_LIST_MAX, group_of, keepers, prefix_of
from tests.documents import SCENES


def expected_service(one: Document, packet: Packet) -> Service | None:
    """An exact address comes before any address; disabled services are not there."""
    fits = [
        service
        for service in one.services
        if service.enabled
        and service.protocol is packet.protocol
        and service.takes_port(packet.port)
        and service.family.value == f"ipv{packet.destination.version}"
        and (service.from_node if packet.interface is None else packet.interface in service.interfaces)
    ]
    exact = [service for service in fits if packet.destination in service.addresses]
    anywhere = [service for service in fits if not service.addresses and packet.destination_local]
    return next(iter(exact + anywhere), None)


def taking(one: Document, service: Service) -> Service:
    """Who chooses the backend of a new client: the service, or the one that stands in for it now."""
    named = {other.name: other for other in one.services}
    while service.stand_in is not None:
        service = named[service.stand_in]
    return service


def arrival(service: Service, backend: Backend, port: int) -> str:
    """Where the backend gets what came in at a port: with one port of its own, all goes to that."""
    one = service.span.first == service.span.last
    at = backend.port if one else service.backend_port(backend, port)
    return format_endpoint(address=backend.address, port=at)


def sets_with(service: Service, backend: Backend) -> frozenset[str]:
    """Where a client is whom the backend has: in its own set; among many backends also in its group's."""
    prefix = prefix_of(service)
    own = names.client_set(service.name, prefix, backend.address, backend.port)
    if len(keepers(service)) <= KNOWN_LIST_MAX:
        return frozenset({own})
    group = names.client_group_set(service.name, prefix, backend.address.version, group_of(backend))
    return frozenset({own, group})


def packets_to(service: Service) -> Iterator[Packet]:
    """To the first and the last of each range of its ports, at each of its places, from any client."""
    addresses = service.addresses or (ip_address(SCENES[service.family].virtual[0]),)
    interfaces = [*service.interfaces, *([None] if service.from_node else [])]
    ports = sorted({port for ports in service.port_ranges for port in (ports.first, ports.last)})
    for interface, address, port in product(interfaces, addresses, ports):
        yield Packet(
            interface=interface,
            protocol=service.protocol,
            source=None,
            destination=address,
            port=port,
        )
