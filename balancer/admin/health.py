"""What health checks found, for the pages of services and nodes: in words and shapes, not by colour alone."""

from typing import Any

from django.utils.safestring import SafeString

from balancer.admin.chips import chip
from balancer.admin.shares import describe_share
from balancer.domain.health import HealthState
from balancer.models import HealthEvent, Node, Service
from balancer.workflow import queries

_STATES = {
    HealthState.UP: ("Up", "ok", "check_circle"),
    HealthState.DOWN: ("Down", "bad", "error"),
    HealthState.DRAINING: ("Draining", "warn", "hourglass_bottom"),
    HealthState.MAINTENANCE: ("Maintenance", "idle", "build"),
    HealthState.UNKNOWN: ("Unknown", "idle", "help"),
}
_EVENTS = {
    HealthEvent.Kind.UP: ("Up", "ok", "check_circle"),
    HealthEvent.Kind.DOWN: ("Down", "bad", "error"),
    HealthEvent.Kind.PANIC: ("Too few", "bad", "warning"),
    HealthEvent.Kind.CALM: ("Enough again", "ok", "check_circle"),
}
_TELLING = {HealthState.DOWN, HealthState.UNKNOWN}


def health_of_service(row: Service) -> dict[str, Any]:
    """What console/health.html wants, and the lines beside each backend."""
    found = queries.view_health(cluster=row.cluster, name=row.name)
    if found is None:
        return {}
    return {
        "health_checks": found.checks,
        "health_policies": found.policies,
        "health_events": [_event(event) for event in found.events],
        "health_of": {
            endpoint: [_line(one) for one in on_nodes] for endpoint, on_nodes in found.backends.items()
        },
    }


def health_of_node(row: Node) -> dict[str, Any]:
    """What console/node_health.html wants."""
    found = queries.view_node_health(node=row)
    if found is None:
        return {}
    return {
        "health": found,
        "health_troubled": [_line(one) for one in found.troubled],
        "health_events": [_event(event) for event in found.events],
    }


def state_chip(state: HealthState) -> SafeString:
    return chip(*_STATES[state])


def summary_chips(summary: queries.Summary | None) -> tuple[SafeString, ...]:
    """Of a service in a list; nothing for one that is not checked."""
    if summary is None:
        return ()
    down = chip(f"{len(summary.down)} of {summary.of} down", "bad", "error")
    silent = chip("Health unknown", "warn", "help")
    found = ((down, bool(summary.down)), (silent, summary.silent))
    return tuple(one for one, holds in found if holds) or (chip("All up", "ok", "check_circle"),)


def _line(one: queries.BackendOnNode) -> dict[str, Any]:
    """The reason where there is something to explain."""
    return {
        "row": one,
        "chip": state_chip(one.state),
        "share": "" if one.share is None else describe_share(one.share),
        "why": one.reason if one.state in _TELLING else "",
    }


def _event(event: HealthEvent) -> dict[str, Any]:
    return {"row": event, "chip": chip(*_EVENTS[HealthEvent.Kind(event.kind)]), "carried": _carried(event)}


def _carried(event: HealthEvent) -> str:
    if event.carried_at is None:
        return "the kernel has not followed yet"
    return f"the kernel followed {max(0.0, (event.carried_at - event.at).total_seconds()):.1f} s later"
