"""What the nodes' health checks say: backend by backend, node by node, and what came of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction

from django.db.models import QuerySet
from django.utils import timezone

from balancer.domain.health import AHEAD, HealthState, nearest, state_of
from balancer.domain.health_overlay import HealthOverlay, is_checked, with_health
from balancer.domain.overrides import service_with_overrides
from balancer.domain.types import Backend, BackendState, Document, HealthKind, Service
from balancer.models import BackendHealth, Cluster, HealthEvent, Node, NodeHealth
from balancer.models import Service as ServiceRecord
from balancer.workflow.documents import live_document, service_named
from balancer.workflow.effective import overrides_in_force
from balancer.workflow.health import targets_of
from balancer.workflow.health_records import describe_short, is_short
from balancer.workflow.queries.ages import describe_age
from balancer.workflow.traffic import NOBODY, shares_alone

EVENTS_SHOWN = 20
BACKENDS_SHOWN = 50
SILENT_AFTER = timedelta(seconds=15)
"""Heartbeats come every two seconds."""


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """Whether a node's health daemon is there."""

    node: Node
    checked_at: datetime | None
    now: datetime

    @property
    def silent(self) -> bool:
        return self.checked_at is None or not -AHEAD <= self.now - self.checked_at <= SILENT_AFTER

    @property
    def words(self) -> str:
        """`lb1 checked 3 s ago`."""
        if self.checked_at is None:
            return f"No health daemon of {self.node.name} was ever heard of"
        return f"{self.node.name} checked {describe_age(self.now - self.checked_at)} ago"


@dataclass(frozen=True, slots=True)
class BackendOnNode:
    node: Node
    service: str
    endpoint: str
    state: HealthState
    since: datetime | None
    reason: str
    warning: str
    share: Fraction | None = None
    """Of new connections on this node, where its health checks have a say in it."""


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    checks: tuple[NodeCheck, ...]
    backends: Mapping[str, tuple[BackendOnNode, ...]]
    """Endpoint -> what each node says."""
    policies: tuple[tuple[Node, str], ...]
    """Where too few are healthy, and what holds there, in a sentence."""
    events: tuple[HealthEvent, ...]


@dataclass(frozen=True, slots=True)
class NodeChecks:
    check: NodeCheck
    services: int
    backends: int
    """Those that are checked."""
    troubled: tuple[BackendOnNode, ...]
    """Down, unknown, or with a warning; the first of them."""
    events: tuple[HealthEvent, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a service in a list."""

    down: frozenset[str]
    """Endpoints of backends that people have enabled and that are down on a node at least."""
    of: int
    """Those that people have enabled."""
    silent: bool
    """A node that should check it has no health daemon, as far as anybody knows."""


def view_health(*, cluster: Cluster, name: str, now: datetime | None = None) -> ServiceHealth | None:
    """Of a live service, on every node that takes part; None where it is not checked."""
    now = now or timezone.now()
    live = service_named(live_document(cluster), name)
    if live is None or not is_checked(live):
        return None
    service = service_with_overrides(live, overrides_in_force(cluster))
    checks = {check.node.pk: check for check in _checks(cluster, now=now)}
    rows = BackendHealth.objects.filter(node__in=checks, service_name=name)
    known = {(row.node_id, row.endpoint): row for row in rows}
    overlays = NodeHealth.objects.filter(node__in=checks).values_list("node", "laid_over")
    laid_over = {node: HealthOverlay.from_data(data) for node, data in overlays}
    shares = {pk: _shares(service, overlay) for pk, overlay in laid_over.items()}
    return ServiceHealth(
        checks=tuple(checks.values()),
        backends={
            b.endpoint: tuple(
                replace(
                    _backend(service, b, check, known.get((pk, b.endpoint))),
                    share=shares.get(pk, {}).get(b.endpoint),
                )
                for pk, check in checks.items()
            )
            for b in service.backends
        },
        policies=tuple(
            (checks[pk].node, describe_short(service, overlay))
            for pk, overlay in sorted(laid_over.items())
            if is_short(service, overlay)
        ),
        events=_events(HealthEvent.objects.filter(node__cluster=cluster, service_name=name)),
    )


def view_node_health(*, node: Node, now: datetime | None = None) -> NodeChecks | None:
    """None for a node that has nothing to check."""
    services = targets_of(node.name)
    if not services:
        return None
    heartbeat = NodeHealth.objects.filter(node=node).values_list("checked_at", flat=True).first()
    check = NodeCheck(node, heartbeat, now or timezone.now())
    known = {(row.service_name, row.endpoint): row for row in BackendHealth.objects.filter(node=node)}
    found = [_backend(s, b, check, known.get((s.name, b.endpoint))) for s in services for b in s.backends]
    troubled = [b for b in found if b.state in {HealthState.DOWN, HealthState.UNKNOWN} or b.warning]
    troubled.sort(key=lambda b: b.state is not HealthState.DOWN)
    return NodeChecks(
        check=check,
        services=len(services),
        backends=len(found),
        troubled=tuple(troubled[:BACKENDS_SHOWN]),
        events=_events(HealthEvent.objects.filter(node=node)),
    )


def summarise_health(rows: Iterable[ServiceRecord], *, now: datetime | None = None) -> dict[int, Summary]:
    """Key of a live row -> how it is, of those that are checked; their backends are there already."""
    now = now or timezone.now()
    checked = [r for r in rows if r.enabled and r.health.get("kind", HealthKind.NONE) != HealthKind.NONE]
    if not checked:
        return {}
    clusters = {row.cluster_id for row in checked}
    nodes = _nodes().filter(cluster__in=clusters)
    silent = {n.cluster_id for n in nodes if NodeCheck(n, heartbeat_of(n), now).silent}
    found = BackendHealth.objects.filter(
        up=False, node__in=nodes, service_name__in={row.name for row in checked}
    )
    down = set(found.values_list("node__cluster", "service_name", "endpoint"))
    return {row.pk: _summary(row, down, silent=row.cluster_id in silent) for row in checked}


def _checks(cluster: Cluster, *, now: datetime) -> list[NodeCheck]:
    return [NodeCheck(node, heartbeat_of(node), now) for node in _nodes().filter(cluster=cluster)]


def _nodes() -> QuerySet[Node]:
    """Those that have something to check, perhaps."""
    found = Node.objects.filter(enabled=True, carried_revision__isnull=False).select_related("health")
    return found.defer("observation", "clients").order_by("name")


def heartbeat_of(node: Node) -> datetime | None:
    """Of its health daemon."""
    return node.health.checked_at if hasattr(node, "health") else None


def _backend(
    service: Service, backend: Backend, check: NodeCheck, row: BackendHealth | None
) -> BackendOnNode:
    state = state_of(
        backend.state,
        up=row.up if row else None,
        checked_at=nearest(row.checked_at, check.checked_at, now=check.now) if row else None,
        health=service.health,
        now=check.now,
    )
    return BackendOnNode(
        node=check.node,
        service=service.name,
        endpoint=backend.endpoint,
        state=state,
        since=row.since if row and row.up is not None else None,
        reason=row.reason if row else "",
        warning=row.warning if row else "",
    )


def _shares(service: Service, overlay: HealthOverlay) -> Mapping[str, Fraction]:
    """Endpoint -> share on a node; empty where they are as people have set them."""
    (now,) = with_health(Document(services=(service,)), overlay).services
    if now == service:
        return {}
    # Whoever stands in for it has shares of its own.
    return (
        shares_alone(now)
        if now.usable_backends
        else dict.fromkeys((b.endpoint for b in now.backends), NOBODY)
    )


def _events(found: QuerySet[HealthEvent]) -> tuple[HealthEvent, ...]:
    return tuple(found.select_related("node")[:EVENTS_SHOWN])


def _summary(row: ServiceRecord, down: set[tuple[int, str, str]], *, silent: bool) -> Summary:
    enabled = [b.endpoint for b in row.backends.all() if b.state == BackendState.ENABLED]
    found = frozenset(endpoint for endpoint in enabled if (row.cluster_id, row.name, endpoint) in down)
    return Summary(down=found, of=len(enabled), silent=silent)
