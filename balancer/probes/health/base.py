"""What is checked, and what all kinds of checks share."""

import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from balancer.domain.health import Result
from balancer.domain.types import Backend, BackendState, Health, HealthKind, Service, format_endpoint

Key = tuple[str, str]
"""Service and endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One backend of one service, and where to ask about it."""

    service: str
    backend: str
    """The endpoint that names it."""
    health: Health
    address: str
    port: int
    endpoint: str
    """What is asked, as people write it."""

    @property
    def key(self) -> Key:
        return self.service, self.backend

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


Check = Callable[[Target], Awaitable[Result]]
"""Ends within the target's timeout, and never raises for a backend that is down."""


def find_targets(services: Iterable[Service]) -> dict[Key, Target]:
    """All that is to be checked; backends that are disabled get no connections and are left in peace."""
    found = (
        _target(service, backend)
        for service in services
        if service.health.kind is not HealthKind.NONE
        for backend in service.backends
        if backend.state is not BackendState.DISABLED
    )
    return {target.key: target for target in found}


def _target(service: Service, backend: Backend) -> Target:
    health = service.health
    address, port = health.address or backend.address, health.port or backend.port
    return Target(
        service=service.name,
        backend=backend.endpoint,
        health=health,
        address=str(address),
        port=port,
        endpoint=format_endpoint(address=address, port=port),
    )
