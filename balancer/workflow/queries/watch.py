"""In a word or two for each node: backends that are down there, and daemons that are not heard of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from balancer.domain.types import BackendState, HealthKind
from balancer.models import Backend, BackendHealth, Cluster, CounterState, Node
from balancer.workflow.effective import active_overrides
from balancer.workflow.queries.counted import SILENT_AFTER as COUNTING_SILENT_AFTER
from balancer.workflow.queries.health import NodeCheck, heartbeat_of

_CHECKED = [str(kind) for kind in HealthKind if kind is not HealthKind.NONE]

Key = tuple[str, str]
"""Service and endpoint."""


@dataclass(frozen=True, slots=True)
class DownBackend:
    service: str
    endpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Of a node that takes part and carries something."""

    node: Node
    checked: int
    """Backends that people want to take connections, of services with a health check."""
    down: tuple[DownBackend, ...]
    """Of those; what was found before the health daemon fell silent does not count."""
    unchecked: bool
    """There is something to check, and no health daemon is heard of."""
    uncounted: bool
    """Its counting process is not heard of."""

    @property
    def health_words(self) -> str:
        return "No health daemon is heard of, so nobody knows how its backends are; traffic goes on."

    @property
    def counting_words(self) -> str:
        return "No counting process is heard of, so its plots have a gap; traffic goes on."


def watch_nodes(*, cluster: Cluster, now: datetime | None = None) -> Mapping[int, Watch]:
    """Key of a node -> what is to be said of it; nodes that carry nothing are left out."""
    now = now or timezone.now()
    nodes = Node.objects.filter(cluster=cluster, enabled=True, carried_revision__isnull=False)
    found = list(nodes.select_related("health").defer("observation", "clients").order_by("name"))
    wanted = _wanted(cluster)
    rows = BackendHealth.objects.filter(node__in=found, up=False).order_by("service_name", "endpoint")
    down: dict[int, list[DownBackend]] = {}
    for row in rows:
        if (row.service_name, row.endpoint) in wanted:
            one = DownBackend(row.service_name, row.endpoint, row.reason)
            down.setdefault(row.node_id, []).append(one)
    counted = dict(CounterState.objects.filter(node__in=found).values_list("node", "counted_at"))
    return {
        node.pk: _watch(node, down.get(node.pk, []), len(wanted), counted.get(node.pk), now=now)
        for node in found
    }


def _watch(
    node: Node, down: Sequence[DownBackend], checked: int, counted: datetime | None, *, now: datetime
) -> Watch:
    unchecked = checked > 0 and NodeCheck(node, heartbeat_of(node), now).silent
    return Watch(
        node=node,
        checked=checked,
        down=() if unchecked else tuple(down),
        unchecked=unchecked,
        uncounted=counted is None or now - counted > COUNTING_SILENT_AFTER,
    )


def _wanted(cluster: Cluster) -> set[Key]:
    """From the live rows: parsing the document takes much longer with 10,000 services."""
    rows = Backend.objects.filter(
        service__cluster=cluster,
        service__enabled=True,
        service__health__kind__in=_CHECKED,
        state=BackendState.ENABLED,
    ).select_related("service")
    taken_out = {
        (row.service_name, row.endpoint)
        for row in active_overrides(cluster)
        if row.state and row.state != BackendState.ENABLED
    }
    return {(row.service.name, row.endpoint) for row in rows} - taken_out
