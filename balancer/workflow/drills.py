"""Rollback drills: asked for by a person or by the schedule; `drilling` carries one out on its node."""

from datetime import datetime, timedelta

from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, JobState
from balancer.models import Cluster, Deployment, Job, Node
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import lock_cluster
from balancer.workflow.clock import Clock
from balancer.workflow.effective import effective_of
from balancer.workflow.errors import Refused
from balancer.workflow.freezes import require_not_frozen
from balancer.workflow.permissions import ADMINISTER, APPLY, Actor, may, require
from balancer.workflow.presence import is_down, is_gone
from balancer.workflow.queue import publish_on_commit
from balancer.workflow.revisions import live_revision, require_up_to_date
from balancer.workflow.rollout import find_running

OVERDUE_AFTER = timedelta(hours=1)
"""Beyond the hours of the schedule: a freeze or a deployment may hold a drill up for a while."""
SCHEDULED = "The schedule of the cluster asks for one."


@deed(Action.DRILL_STARTED, target="node")
def start_drill(*, actor: Actor, node: Node, clock: Clock = timezone.now) -> Job:
    """Let one node prove that it goes back by itself. Needs ADMINISTER or APPLY.

    Refused: "state" (the node is switched off, or carries something else than what is live), "busy" (a
    deployment runs, the node is at a job, or another node of the cluster is in a drill), "frozen", "away",
    "no-guard".
    """
    if not may(actor=actor, permission=ADMINISTER):
        require(actor=actor, permission=APPLY)
    node = _require_possible(node=node, now=clock())
    job = _queue(
        actor=actor, node=node, cause=f"{actor.get_username() if actor else audit.SYSTEM} asked for it."
    )
    publish_on_commit(job)
    return job


def start_due_drill(*, node: Node, clock: Clock) -> Job | None:
    """In the node's own tick: a drill for its worker to carry out at once, where the schedule asks for one.

    A node that never carried anything is left as it is. One that must not now is asked again at its next
    tick.
    """
    if not is_due(node=node, now=clock()) or node.carried_revision_id is None or not node.in_sync:
        return None
    try:
        with audit.writing():
            return _queue(actor=None, node=_require_possible(node=node, now=clock()), cause=SCHEDULED)
    except Refused:
        return None


def why_no_drill(*, job: Job, clock: Clock) -> Refused | None:
    """Why a queued drill must not begin any more."""
    node = job.node
    try:
        if find_running(node.cluster) is not None:
            raise Refused("busy", "A deployment runs in the cluster.")
        _require_carries_live(node)
        require_not_frozen(cluster=node.cluster, now=clock())
    except Refused as refusal:
        return refusal
    return None


def drop_untimely_drill(*, node: Node, clock: Clock) -> None:
    """Cancel a queued drill of this node that would come at the wrong time; nothing was begun."""
    found = Job.objects.filter(node=node, reason=Job.Reason.DRILL, state=JobState.QUEUED, attempts=0)
    job = found.select_related("node__cluster").defer("node__observation").first()
    why = why_no_drill(job=job, clock=clock) if job is not None else None
    if job is None or why is None:
        return
    with audit.writing():
        if Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
            state=JobState.CANCELLED, finished_at=clock()
        ):
            facts = {"node": node.name, "why": why.message}
            audit.record(actor=None, action=Action.JOB_CANCELLED, target=job, facts=facts)


def is_due(*, node: Node, now: datetime) -> bool:
    """Whether the schedule asks for one; at once where there never was one."""
    hours = node.cluster.operation.drill_hours
    if hours is None:
        return False
    ended = [at for at in (node.drilled_at, node.drill_failed_at) if at is not None]
    return not ended or now - max(ended) >= timedelta(hours=hours)


def is_overdue(*, node: Node, now: datetime) -> bool:
    """The schedule asks for drills, and it has been too long since one was proven."""
    hours = node.cluster.operation.drill_hours
    if hours is None or not node.enabled:
        return False
    return now - (node.drilled_at or node.created_at) > timedelta(hours=hours) + OVERDUE_AFTER


def _require_possible(*, node: Node, now: datetime) -> Node:
    """The node as it is now, with its cluster locked."""
    cluster = lock_cluster(node.cluster)
    node = Node.objects.select_related("cluster").defer("observation").get(pk=node.pk)
    if not node.enabled:
        raise Refused("state", f"{node} is switched off; let it take part again first.")
    require_not_frozen(cluster=cluster, now=now)
    if Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE).exists():
        raise Refused("busy", "A change is being applied in this cluster; start the drill when that is over.")
    if is_down(node=node, now=now):
        raise Refused("away", f"{node} is down: its worker was not heard of. Start it there.")
    if not node.guard.get("alive"):
        raise Refused(
            "no-guard",
            f"No guard of {node} is known to run, so nothing would put the old rules back. Start it beside"
            " the worker (python -m lbadmin.guard), and then the drill.",
        )
    _require_free(node=node, cluster=cluster, now=now)
    _require_carries_live(node)
    return node


def _require_free(*, node: Node, cluster: Cluster, now: datetime) -> None:
    jobs = Job.objects.filter(node__cluster=cluster, state__in=JOB_ACTIVE).select_related("node")
    if jobs.filter(node=node).exists():
        raise Refused("busy", f"{node} is at another job just now; try again in a moment.")
    for job in jobs.filter(reason=Job.Reason.DRILL):
        if not is_gone(job=job, now=now):
            raise Refused("busy", f"{job.node} is in a drill just now; one node of a cluster at a time.")


def _require_carries_live(node: Node) -> None:
    require_up_to_date(node.cluster)
    live = live_revision(node.cluster)
    if node.carried_revision_id is None and live.number == 0:
        return
    carried = node.carried_revision_id, node.carried_overrides
    if node.in_sync is False:
        raise Refused("state", f"The kernel of {node} differs from what it should carry; see to that first.")
    if carried != (live.pk, effective_of(cluster=node.cluster, revision=live).digest):
        raise Refused(
            "state", f"{node} does not carry what is live at this moment; start the drill when it does."
        )


def _queue(*, actor: Actor, node: Node, cause: str) -> Job:
    job = Job.objects.create(
        node=node,
        revision=live_revision(node.cluster),
        reason=Job.Reason.DRILL,
        cause=cause[: Job._meta.get_field("cause").max_length],
        queued_at=timezone.now(),
    )
    facts = {"node": node.name, "revision": job.revision.number, "cause": job.cause, "job": str(job.pk)}
    audit.record(actor=actor, action=Action.DRILL_STARTED, target=node, facts=facts)
    return job
