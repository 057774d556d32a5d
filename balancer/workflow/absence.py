"""Nodes that are down in a roll-out: they hold it up, or are left out and catch up when they return."""

from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.domain.operation import Away
from balancer.models import Cluster, Deployment, Job, Node, Revision
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.clock import Clock
from balancer.workflow.errors import Refused
from balancer.workflow.presence import is_down
from balancer.workflow.rollout import join_names


def require_present(*, cluster: Cluster, nodes: list[Node], clock: Clock) -> list[Node]:
    """The nodes that are down and may be left out; Refused("away") where one is down that may not."""
    down = [node for node in nodes if is_down(node=node, now=clock())]
    skips = cluster.operation.away == Away.SKIP
    blocking = [node.name for node in down if not skips or node == nodes[0]]
    if not blocking:
        return down
    if skips:
        raise Refused(
            "away",
            f"{blocking[0]} is down, and a roll-out begins with it. Start its worker, or let the operation"
            " policy name another node as the first.",
        )
    verb = "is" if len(blocking) == 1 else "are"
    raise Refused(
        "away",
        f"{join_names(blocking)} {verb} down, and the operation policy lets no roll-out begin without every"
        " node. Start the worker there, or switch the node off until it is back.",
    )


def may_skip(*, job: Job, cluster: Cluster, clock: Clock) -> bool:
    """Whether a roll-out may go on without this node, whose turn has come."""
    if cluster.operation.away != Away.SKIP or job.position <= 1 or job.attempts:
        return False
    return is_down(node=job.node, now=clock())


def skip_at_once(*, node: Node, revision: Revision, deployment: Deployment, position: int) -> Job:
    """The job of a node that is down when the roll-out begins."""
    now = timezone.now()
    job = Job.objects.create(
        deployment=deployment,
        node=node,
        revision=revision,
        reason=Job.Reason.DEPLOY,
        position=position,
        state=JobState.SKIPPED,
        queued_at=now,
        finished_at=now,
    )
    record_skip(job)
    return job


def record_skip(job: Job) -> None:
    facts = {"node": job.node.name, "revision": job.revision.number}
    why = "The node is down; it catches up when it returns."
    audit.record(actor=None, action=Action.JOB_SKIPPED, target=job, facts=facts | {"why": why})
