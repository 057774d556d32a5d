"""What the health checks of a service must obey, beyond what holds of each value (`scalars`)."""

from collections.abc import Iterator

from balancer.domain.problem import Problem, Severity
from balancer.domain.types import Health, HealthKind, HttpMethod, Protocol, Service, SourceNatMode

MAX_PASSIVE_INTERVAL = 8
"""Seconds; below the 10 of nf_conntrack_tcp_timeout_close."""
_HTTP = (HealthKind.HTTP, HealthKind.HTTPS)
_ASKED = (HealthKind.TCP, *_HTTP, HealthKind.UDP, HealthKind.ICMP)
"""Kinds that send something of their own."""
_USED_BY: dict[str, tuple[HealthKind, ...]] = {
    "interval": (*_ASKED, HealthKind.PASSIVE),
    "timeout": _ASKED,
    "rise": (*_ASKED, HealthKind.PASSIVE),
    "fall": (*_ASKED, HealthKind.PASSIVE),
    "port": (HealthKind.TCP, *_HTTP, HealthKind.UDP),
    "address": _ASKED,
    "method": _HTTP,
    "host": _HTTP,
    "path": _HTTP,
    "expect_status": _HTTP,
    "expect_body": _HTTP,
    "certificate_warning_days": (HealthKind.HTTPS,),
    "verify_certificate": (HealthKind.HTTPS,),
    "send": (HealthKind.UDP,),
    "expect": (HealthKind.UDP,),
}


def keys_used_by(kind: HealthKind) -> frozenset[str]:
    """The settings that mean something to this kind of check."""
    return frozenset(key for key, kinds in _USED_BY.items() if kind in kinds)


def check_health(service: Service) -> Iterator[Problem]:
    """All that is wrong with it; paths begin at the service."""
    health = service.health
    yield from _check_unused(health)
    if health.kind is not HealthKind.PASSIVE and health.timeout > health.interval:
        message = (
            f"Timeout must not be longer than the interval, which is {health.interval}:"
            " a check would still be waiting when the next one is due."
        )
        yield Problem("health.timeout", "range", message)
    if health.kind is HealthKind.PASSIVE and service.protocol is not Protocol.TCP:
        message = (
            f"Passive checks look at TCP connections, and the service is {service.protocol}."
            " Choose another kind, such as icmp."
        )
        yield Problem("health.kind", "protocol", message)
    if health.kind is HealthKind.PASSIVE and service.source_nat.mode is SourceNatMode.NONE:
        message = (
            "Passive checks see what comes back through the node. With source NAT none, backends whose"
            " answers take another way are all taken out: their default route must lead through the node"
            " that sent the connection. With several balancers choose another kind, such as tcp."
        )
        yield Problem("health.kind", "one-way", message, Severity.WARNING)
    if health.kind is HealthKind.PASSIVE and health.interval > MAX_PASSIVE_INTERVAL:
        message = (
            f"Interval of passive checks must be {MAX_PASSIVE_INTERVAL} or less: a connection that was reset"
            " is forgotten after 10 seconds, and the next look would take it for one that was refused."
        )
        yield Problem("health.interval", "range", message)
    if health.expect_body and health.method is HttpMethod.HEAD:
        message = "An answer to HEAD has no body. Choose GET, or leave the expected text out."
        yield Problem("health.expect_body", "unused", message)


def _check_unused(health: Health) -> Iterator[Problem]:
    """What a kind does not use is refused unless it is at its default: somebody expects something of it."""
    usual = Health()
    for key, kinds in _USED_BY.items():
        if health.kind in kinds or getattr(health, key) == getattr(usual, key):
            continue
        name = key.replace("_", " ")
        if health.kind is HealthKind.NONE:
            message = f"Without health checks nothing uses {name}. Choose a kind of check or leave it out."
        else:
            known = " and ".join(kinds) if len(kinds) < 3 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
            message = f"Checks of kind {health.kind} do not use {name}; {known} do. Leave it out."
        yield Problem(f"health.{key}", "unused", message)
