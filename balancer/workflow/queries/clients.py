"""The clients that the nodes remember, backend by backend, and what was asked of them lately."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from balancer.domain.types import Service
from balancer.models import Clearing, Cluster, Node
from balancer.ruleset.sets import sets_of_backends
from balancer.workflow.documents import live_document, service_named
from balancer.workflow.effective import effective_document
from balancer.workflow.persistence import does_keep, keeps_clients
from balancer.workflow.queries.ages import as_of
from balancer.workflow.revisions import live_revision

RECENT_CLEARINGS = 6


@dataclass(frozen=True, slots=True)
class Report:
    """What one node said last."""

    node: Node
    age: str
    """`as of 4 s ago`; `not counted yet`."""
    error: str
    """Why it could not count, in a sentence; empty where it could."""


@dataclass(frozen=True, slots=True)
class BackendClients:
    endpoint: str
    counts: tuple[int | None, ...]
    """One for each node; None where it has no set of them, as for a disabled backend."""

    @property
    def total(self) -> int:
        return sum(count or 0 for count in self.counts)


@dataclass(frozen=True, slots=True)
class ServiceClients:
    name: str
    timeout: int
    """Seconds after its last new connection in which a client keeps its backend."""
    prefix: int | None
    reports: tuple[Report, ...]
    backends: tuple[BackendClients, ...]

    @property
    def total(self) -> int:
        return sum(backend.total for backend in self.backends)


def view_clients(*, cluster: Cluster, name: str, now: datetime | None = None) -> ServiceClients | None:
    """Of a live service, on every node that takes part; None where it keeps no clients."""
    service = service_named(live_document(cluster), name) if keeps_clients(cluster) else None
    if service is None or not does_keep(service):
        return None
    nodes = Node.objects.filter(cluster=cluster, enabled=True).defer("observation", "facts").order_by("name")
    return _view(service, tuple(nodes), now=now or timezone.now())


def view_node_clients(*, node: Node, now: datetime | None = None) -> tuple[ServiceClients, ...]:
    """Of every live service that keeps clients, on one node."""
    cluster = node.cluster
    if not keeps_clients(cluster):
        return ()
    document = effective_document(cluster, live_revision(cluster))
    kept = (service for service in document.services if does_keep(service))
    return tuple(_view(service, (node,), now=now or timezone.now()) for service in kept)


def recent_clearings(*, cluster: Cluster, name: str) -> tuple[Clearing, ...]:
    """The last that was asked of the nodes, the newest first."""
    found = Clearing.objects.filter(node__cluster=cluster, service_name=name)
    rows = found.select_related("node", "requested_by").defer("node__observation", "node__clients")
    return tuple(rows.order_by("-requested_at", "node__name")[:RECENT_CLEARINGS])


def _view(service: Service, nodes: Iterable[Node], *, now: datetime) -> ServiceClients:
    nodes = tuple(nodes)
    return ServiceClients(
        name=service.name,
        timeout=service.persistence.timeout,
        prefix=service.persistence.prefix,
        reports=tuple(_report(node, now=now) for node in nodes),
        backends=tuple(
            BackendClients(endpoint, tuple(node.clients.get("counts", {}).get(name) for node in nodes))
            for name, endpoint in sets_of_backends(service).items()
        ),
    )


def _report(node: Node, *, now: datetime) -> Report:
    age = "not counted yet" if node.clients_at is None else as_of(node.clients_at, now=now)
    return Report(node=node, age=age, error=node.clients.get("error", ""))
