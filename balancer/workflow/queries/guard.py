"""What a node's guard put back, for as long as people have not dealt with it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from balancer.domain.lifecycle import JobState
from balancer.models import Change, Cluster, Job, Node


@dataclass(frozen=True, slots=True)
class RestoredView:
    """A node went back by itself."""

    node: Node
    text: str
    """What happened, in a sentence."""
    why: tuple[str, ...]
    """The checks that did not hold, in sentences; empty where they held or were never made."""
    seen_at: datetime
    change: Change | None
    """What was being applied."""


def view_restored(*, node: Node) -> RestoredView | None:
    """None where the guard did nothing, or where the node has taken another deployment since."""
    restored = node.guard.get("restored")
    if not restored:
        return None
    seen_at = datetime.fromisoformat(restored["seen_at"])
    job = _job_of(restored, node=node)
    taken = Job.objects.filter(node=node, reason=Job.Reason.DEPLOY, state=JobState.SUCCEEDED)
    if taken.filter(queued_at__gt=job.queued_at if job else seen_at).exists():
        return None
    return RestoredView(
        node=node,
        text=restored["text"],
        why=tuple(probe["text"] for probe in job.probes if probe["passed"] is False) if job else (),
        seen_at=seen_at,
        change=job.deployment.change if job and job.deployment else None,
    )


def list_restored(*, cluster: Cluster) -> tuple[RestoredView, ...]:
    """Of every node of a cluster, in order of name."""
    nodes = cluster.nodes.defer("observation", "facts").order_by("name")
    found = (view_restored(node=node) for node in nodes if node.guard.get("restored"))
    return tuple(view for view in found if view is not None)


def _job_of(restored: dict[str, Any], *, node: Node) -> Job | None:
    if not restored["job"]:
        return None
    return Job.objects.select_related("deployment__change").filter(pk=restored["job"], node=node).first()
