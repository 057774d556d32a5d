"""What must become of a packet, by the definition of a document and not by rules."""

from balancer.domain.types import Document, Service
from balancer.ruleset.trace import Packet


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
