"""Whether the nodes have proven lately that they go back by themselves."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.utils import timezone

from balancer.domain.lifecycle import JOB_ACTIVE
from balancer.models import Cluster, Job, Node
from balancer.workflow.drills import is_overdue


class DrillState(StrEnum):
    NEVER = "never"
    PROVEN = "proven"
    FAILED = "failed"
    """The last one did; an earlier one may have been proven."""


@dataclass(frozen=True, slots=True)
class DrillView:
    node: Node
    state: DrillState
    words: str
    """`Proven 3 days ago`."""
    late_ms: int | None
    """After the deadline, of the one that was proven last."""
    overdue: bool
    """The schedule asks for drills, and none was proven for too long."""


def view_drill(*, node: Node, now: datetime | None = None) -> DrillView:
    now = now or timezone.now()
    state = (
        DrillState.FAILED if node.drill_error else DrillState.PROVEN if node.drilled_at else DrillState.NEVER
    )
    return DrillView(
        node=node,
        state=state,
        words=_describe(node, state, now=now),
        late_ms=None if node.drill_late is None else round(node.drill_late * 1000),
        overdue=is_overdue(node=node, now=now),
    )


def list_bad_drills(*, cluster: Cluster, now: datetime | None = None) -> tuple[DrillView, ...]:
    """Of the nodes that take part: those whose drill failed or is overdue, in order of name."""
    nodes = cluster.nodes.filter(enabled=True).select_related("cluster").defer("observation", "facts")
    views = (view_drill(node=node, now=now) for node in nodes.order_by("name"))
    return tuple(view for view in views if view.state is DrillState.FAILED or view.overdue)


def is_in_drill(*, node: Node) -> bool:
    """One waits, or goes on."""
    return Job.objects.filter(node=node, reason=Job.Reason.DRILL, state__in=JOB_ACTIVE).exists()


def _describe(node: Node, state: DrillState, *, now: datetime) -> str:
    if state is DrillState.FAILED:
        return "Drill failed"
    if node.drilled_at is None:
        return "Never proven"
    return f"Proven {_ago(now - node.drilled_at)}"


def _ago(span: timedelta) -> str:
    hours = int(span.total_seconds() // 3600)
    if hours < 1:
        return "just now" if span < timedelta(minutes=2) else f"{int(span.total_seconds() // 60)} minutes ago"
    if hours < 48:
        return f"{hours} hour{'' if hours == 1 else 's'} ago"
    return f"{hours // 24} days ago"
