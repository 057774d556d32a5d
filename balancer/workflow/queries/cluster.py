"""Dashboard and nodes."""

from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from balancer.domain.lifecycle import CHANGE_IN_REVIEW, DEPLOYMENT_ACTIVE, ChangeState
from balancer.domain.types import BackendState
from balancer.models import AuditEvent, Change, Cluster, Deployment, Job, Node, Revision
from balancer.models import Backend as BackendRecord
from balancer.models import Service as ServiceRecord
from balancer.workflow.effective import active_overrides
from balancer.workflow.presence import is_absent

RECENT_EVENTS = 10
_TEXTS = ("revision__document", "revision__rulesets")
"""Megabytes in a big cluster, and nobody reads them here."""


@dataclass(frozen=True, slots=True)
class NodeView:
    node: Node
    absent: bool
    """The worker has not been seen for a while, or never."""
    desired: Revision | None
    job: Job | None
    """The latest one."""

    @property
    def behind(self) -> bool:
        """Carries something else than it should."""
        return self.node.carried_revision_id != (self.desired.pk if self.desired else None)


@dataclass(frozen=True, slots=True)
class Dashboard:
    cluster: Cluster
    live: Revision | None
    services: int
    disabled_services: int
    backends: int
    idle_backends: int
    """Draining or disabled, as approved."""
    overrides: int
    """In force."""
    nodes: tuple[NodeView, ...]
    in_review: int
    approved: int
    failed: int
    deployment: Deployment | None
    """The one that runs."""
    events: tuple[AuditEvent, ...]


def view_dashboard(*, cluster: Cluster) -> Dashboard:
    # The live rows, not the document: counting them costs the same however many there are.
    services = ServiceRecord.objects.filter(cluster=cluster)
    backends = BackendRecord.objects.filter(service__cluster=cluster)
    changes = Change.objects.filter(cluster=cluster)
    running = Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE)
    return Dashboard(
        cluster=cluster,
        live=cluster.live_revision,
        services=services.count(),
        disabled_services=services.filter(enabled=False).count(),
        backends=backends.count(),
        idle_backends=backends.exclude(state=BackendState.ENABLED).count(),
        overrides=active_overrides(cluster).count(),
        nodes=tuple(view_node(node=node) for node in cluster.nodes.order_by("name")),
        in_review=changes.filter(state__in=CHANGE_IN_REVIEW).count(),
        approved=changes.filter(state=ChangeState.APPROVED).count(),
        failed=changes.filter(state=ChangeState.FAILED).count(),
        deployment=running.select_related("revision", "change").defer(*_TEXTS).first(),
        events=tuple(AuditEvent.objects.order_by("-pk")[:RECENT_EVENTS]),
    )


def view_node(*, node: Node, now: datetime | None = None) -> NodeView:
    return NodeView(
        node=node,
        absent=is_absent(node=node, now=now or timezone.now()),
        desired=node.cluster.live_revision,
        job=node.jobs.select_related("revision").defer(*_TEXTS).order_by("-queued_at").first(),
    )
