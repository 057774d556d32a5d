"""Rows of what health checks found and of what a node carries because of it, read as values."""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Q

from balancer.domain.health import has_aged, nearest
from balancer.domain.health_overlay import HealthOverlay, Standings, decide_overlay, is_checked
from balancer.domain.types import Document, Service
from balancer.models import BackendHealth, Node, NodeHealth

_BATCH = 500


def overlay_of(node: Node, document: Document) -> HealthOverlay:
    """What the node is to carry, as far as it can matter to the document: most need no look at it."""
    if not any(is_checked(service) for service in document.services):
        return HealthOverlay()
    row = NodeHealth.objects.filter(node=node).first()
    return HealthOverlay() if row is None else HealthOverlay.from_data(row.laid_over)


def wanted_overlay(*, node: Node, document: Document, before: HealthOverlay, now: datetime) -> HealthOverlay:
    """What the checks ask for now of a document that holds the overrides; `before` where nobody can tell."""
    if not any(is_checked(service) for service in document.services):
        return HealthOverlay()
    return decide_overlay(document, before, standings_of(node, document, before, now=now))


def standings_of(node: Node, document: Document, before: HealthOverlay, *, now: datetime) -> Standings:
    """Of the backends that are not simply up; those that have grown too old say nothing."""
    heartbeat = NodeHealth.objects.filter(node=node).values_list("checked_at", flat=True).first()
    checks = {service.name: service.health for service in document.services if is_checked(service)}
    wanted = Q(up=False) | Q(service_name__in=tuple(before.down))
    rows = BackendHealth.objects.filter(wanted, node=node)
    found: dict[tuple[str, str], bool | None] = {}
    for name, endpoint, up, checked_at in rows.values_list("service_name", "endpoint", "up", "checked_at"):
        seen = nearest(checked_at, heartbeat, now=now)
        if name in checks and not has_aged(seen, health=checks[name], now=now):
            found[name, endpoint] = up
    return found


def store_overlay(*, node: Node, overlay: HealthOverlay) -> None:
    NodeHealth.objects.update_or_create(node=node, defaults={"laid_over": overlay.to_data()})


def forget_others(*, node: Node, services: Iterable[Service]) -> None:
    """Drop what was found of backends that the node no longer has or checks."""
    checked = {(s.name, backend.endpoint) for s in services if is_checked(s) for backend in s.backends}
    rows = BackendHealth.objects.filter(node=node).values_list("pk", "service_name", "endpoint")
    gone = [pk for pk, name, endpoint in rows if (name, endpoint) not in checked]
    for start in range(0, len(gone), _BATCH):
        BackendHealth.objects.filter(pk__in=gone[start : start + _BATCH]).delete()
