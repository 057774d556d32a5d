"""What a node carries because of its health checks, and the log of it: rows, apart from configuration."""

from collections.abc import Sequence
from datetime import datetime

from balancer.domain.health_overlay import HealthOverlay, healthy_share, serving_priority
from balancer.domain.types import AllDown, Document, Service
from balancer.models import HealthEvent, Node, NodeHealth
from balancer.workflow.effective import Effective, renew_health
from balancer.workflow.node_health import store_overlay

EVENTS_KEPT = 2000
"""Of each node."""
_BATCH = 500
_POLICIES = {
    AllDown.KEEP: "all of them take new connections",
    AllDown.REFUSE: "new connections are refused",
    AllDown.SERVICE: "{} takes the new connections",
}


def remember_health(*, node: Node, effective: Effective, now: datetime) -> None:
    """The node's kernel carries this from now on."""
    row = NodeHealth.objects.filter(node=node).first()
    before = HealthOverlay() if row is None else HealthOverlay.from_data(row.laid_over)
    if before != effective.health:
        store_overlay(node=node, overlay=effective.health)
        record_events(node, _events(node, before, effective, now=now))


def newest_told(node: Node) -> int:
    """Key of the newest event that the kernel has not followed yet; 0 without one. Ask before what to carry
    is decided: what is told while the kernel is written is not in it."""
    waiting = HealthEvent.objects.filter(node=node, carried_at__isnull=True)
    return waiting.order_by("-pk").values_list("pk", flat=True).first() or 0


def note_carried(node: Node, *, until: int, now: datetime) -> None:
    """The kernel is in line with all that was told until this event."""
    if until:
        HealthEvent.objects.filter(node=node, carried_at__isnull=True, pk__lte=until).update(carried_at=now)


def note_in_line(*, node: Node, effective: Effective, now: datetime) -> None:
    """The same where the node's kernel carries what its checks ask for, whoever has written it."""
    until = newest_told(node)
    if until and renew_health(effective, node=node, now=now).health == effective.health:
        note_carried(node, until=until, now=now)


def record_events(node: Node, events: Sequence[HealthEvent]) -> None:
    """Into the log, which forgets its oldest."""
    if not events:
        return
    HealthEvent.objects.bulk_create(events, batch_size=_BATCH)
    newest = HealthEvent.objects.filter(node=node).order_by("-pk").values_list("pk", flat=True)
    for oldest_kept in newest[EVENTS_KEPT - 1 : EVENTS_KEPT]:
        HealthEvent.objects.filter(node=node, pk__lt=oldest_kept).delete()


def _events(node: Node, before: HealthOverlay, after: Effective, *, now: datetime) -> list[HealthEvent]:
    """Services whose policy for too few healthy backends begins or ends to hold."""
    had, has = _short(after.approved, before), _short(after.approved, after.health)
    return [
        HealthEvent(
            node=node,
            at=now,
            carried_at=now,
            service_name=service.name,
            kind=HealthEvent.Kind.PANIC if service.name in has else HealthEvent.Kind.CALM,
            why=describe_short(service, after.health)
            if service.name in has
            else _describe_enough(service, after.health),
        )
        for service in after.approved.services
        if service.name in had ^ has
    ]


def _short(document: Document, overlay: HealthOverlay) -> set[str]:
    return {s.name for s in document.services if is_short(s, overlay)}


def is_short(service: Service, overlay: HealthOverlay) -> bool:
    """Whether the service's policy for too few healthy backends holds."""
    healthy, of = healthy_share(service, overlay.down.get(service.name, ()))
    return service.name in overlay.panic or (of > 0 and healthy == 0)


def describe_short(service: Service, overlay: HealthOverlay) -> str:
    """How few are healthy, and what holds because of it."""
    least = f", {service.healthy_min} % are needed" if service.healthy_min else ""
    policy = _POLICIES[service.all_down].format(service.all_down_service)
    serving = serving_priority(service, overlay.down.get(service.name, ()))
    if service.all_down is AllDown.KEEP and serving is not None:
        policy = f"all of priority {serving} take new connections"
    return f"{_count(service, overlay)}{least}: {policy}."


def _describe_enough(service: Service, overlay: HealthOverlay) -> str:
    if not healthy_share(service, overlay.down.get(service.name, ()))[1]:
        return "people have taken out all of its backends, so health has nothing to say."
    return f"{_count(service, overlay)}; connections go to these again."


def _count(service: Service, overlay: HealthOverlay) -> str:
    healthy, of = healthy_share(service, overlay.down.get(service.name, ()))
    return f"{healthy} of {of} backends are healthy"
