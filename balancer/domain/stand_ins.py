"""What holds when all backends of a service are down: whether it can.

Where another service takes the connections, its rules send what came in for the first to its own backends,
at their ports.
"""

from collections.abc import Iterator, Mapping

from balancer.domain.problem import Problem
from balancer.domain.types import AllDown, HealthKind, Service

_KEY = "all_down_service"


def check_all_down(service: Service) -> Iterator[Problem]:
    """Of a service by itself; paths begin at it."""
    named = service.all_down_service is not None
    if service.health.kind is HealthKind.NONE:
        given = {
            "all_down": service.all_down is not AllDown.KEEP,
            "all_down_service": named,
            "healthy_min": service.healthy_min > 0,
        }
        message = (
            "Without health checks no backend is ever found down; choose a kind of check or leave it out."
        )
        yield from (Problem(path, "unused", message) for path, found in given.items() if found)
    elif service.all_down is AllDown.SERVICE and not named:
        message = "Name the service that takes the connections when all backends are down."
        yield Problem("all_down_service", "missing", message)
    elif service.all_down is not AllDown.SERVICE and named:
        message = f"Only all_down service uses another service; {service.all_down} does not. Leave this out."
        yield Problem("all_down_service", "unused", message)


def check_stand_ins(services: Mapping[str, Service]) -> Iterator[Problem]:
    """Of services that are known by their path in some input, all of them."""
    named = {service.name: service for service in services.values()}
    for path, service in services.items():
        if service.all_down is AllDown.SERVICE and service.all_down_service is not None:
            why, code = _why_not(service, named)
            if why:
                yield Problem(f"{path}.{_KEY}" if path else _KEY, code, why)


def _why_not(service: Service, named: Mapping[str, Service]) -> tuple[str, str]:
    """(sentence, code); both empty where it can stand in."""
    wanted = service.all_down_service or ""
    other = named.get(wanted)
    if wanted == service.name:
        return f"{service.name} cannot stand in for itself; name another service.", "loop"
    lead = f"{wanted} takes the connections of {service.name} when all its backends are down,"
    if other is None:
        return f"{lead} but there is no such service. Name another one, or choose keep or refuse.", "unknown"
    if not other.enabled:
        return (
            f"{lead} but it is disabled. Enable it, name another one, or choose keep or refuse.",
            "disabled",
        )
    if other.protocol is not service.protocol:
        return (
            f"{lead} but it is for {other.protocol}, and {service.name} for {service.protocol}.",
            "protocol",
        )
    if other.family is not service.family:
        return (
            f"{lead} but it is an {other.family} service, and {service.name} is {service.family}.",
            "family",
        )
    if _goes_round(service, named):
        return f"{lead} and would send its own back to it in the end: such a circle ends nowhere.", "loop"
    return _why_not_ports(service, other, lead)


def _goes_round(service: Service, named: Mapping[str, Service]) -> bool:
    seen: set[str] = set()
    at: Service | None = service
    while at is not None and at.all_down is AllDown.SERVICE and at.name not in seen:
        seen.add(at.name)
        at = named.get(at.all_down_service or "")
    return at is not None and at.name == service.name and at.name in seen


def _why_not_ports(service: Service, other: Service, lead: str) -> tuple[str, str]:
    """With one port, all goes to the port of its backend; several of them keep their distance from it."""
    one = other.span.first == other.span.last
    if one or all(other.takes_port(p) for r in service.port_ranges for p in range(r.first, r.last + 1)):
        return "", ""
    ports = ", ".join(map(str, other.port_ranges))
    message = (
        f"{lead} but it has several ports ({ports}), and not all those of {service.name}: nobody could"
        " tell at which port of its backends they belong. Name a service with one port."
    )
    return message, "ports"
