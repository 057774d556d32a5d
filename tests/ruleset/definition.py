"""What must become of a packet, by the definition of a document and not by rules."""

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import product

from balancer.domain.types import Document, Service
from balancer.ruleset.matching import Packet
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
