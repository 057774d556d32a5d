"""Bringing an approved change to the nodes, one after the other, and making it live when all carry it."""

from django.db import IntegrityError, transaction
from django.utils import timezone

from balancer.domain.codec import dump_document
from balancer.domain.lifecycle import (
    DEPLOYMENT_ACTIVE,
    JOB_ACTIVE,
    ChangeDeed,
    JobState,
)
from balancer.models import Change, Cluster, Deployment, Emergency, Job, Node, Revision
from balancer.workflow import audit
from balancer.workflow.absence import require_present, skip_at_once
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import advance, lock_change, lock_cluster, require_current
from balancer.workflow.clock import Clock
from balancer.workflow.documents import candidate_document
from balancer.workflow.endings import finalize_deployment
from balancer.workflow.errors import Refused
from balancer.workflow.freezes import require_not_frozen
from balancer.workflow.permissions import APPLY, EMERGENCY, Actor, require
from balancer.workflow.presence import is_gone
from balancer.workflow.queue import publish_confirm_on_commit
from balancer.workflow.queueing import cancel_queued_jobs, queue_job
from balancer.workflow.revisions import create_revision
from balancer.workflow.rollout import find_running, order_nodes, why_not_yet
from balancer.workflow.schedules import close_window
from balancer.workflow.waivers import require_let_through, waiver_of, why_not_let_through


@deed(Action.DEPLOYMENT_STARTED, target="change")
def apply_change(*, actor: Actor, change: Change, clock: Clock = timezone.now) -> Deployment:
    """Make a revision of an approved (or failed) change and queue one job for each node. Needs APPLY.

    Refused: "state", "stale" (live moved under the drafts; the sentence says what), "invalid", "not-approved"
    (the approval does not hold), "not-rehearsed", "busy" (another deployment or a convergence runs),
    "nothing" (no nodes), "away" (a node is down that the policy does not leave out), "frozen".
    """
    return start_deployment(actor=actor, change=change, clock=clock)


def start_deployment(
    *,
    actor: Actor,
    change: Change,
    scheduled: bool = False,
    emergency: Emergency | None = None,
    clock: Clock = timezone.now,
) -> Deployment:
    """The same inside a transaction of the caller's, for what has a record of its own: a window.

    `scheduled`: it is the change's window that asks; otherwise one that is still to come is given up.
    `emergency` stands in for the approvals and for the rehearsal.
    """
    require(actor=actor, permission=APPLY if emergency is None else EMERGENCY)
    cluster = lock_cluster(change.cluster)
    change = lock_change(change)
    advance(change=change, deed=ChangeDeed.APPLY if emergency is None else ChangeDeed.DECLARE_EMERGENCY)
    require_not_frozen(cluster=cluster, now=clock(), emergency=emergency is not None)
    require_current(change)
    require_let_through(change=change, emergency=emergency)
    document = candidate_document(change)
    nodes = _require_free_nodes(cluster)
    down = require_present(cluster=cluster, nodes=nodes, clock=clock)
    if not scheduled:
        close_window(change=change, actor=actor, why="It was applied before its window.")
    revision = create_revision(actor=actor, change=change, document=document)
    deployment = _create_deployment(actor=actor, change=change, revision=revision, emergency=emergency)
    facts = {"revision": revision.number, "change": change.pk, "nodes": [node.name for node in nodes]}
    if waiver_of(deployment) is not None:
        facts["waiver"] = waiver_of(deployment)
    audit.record(actor=actor, action=Action.DEPLOYMENT_STARTED, target=deployment, facts=facts)
    for position, node in enumerate(nodes, start=1):
        if node in down:
            skip_at_once(node=node, revision=revision, deployment=deployment, position=position)
        else:
            queue_job(
                actor=actor, node=node, revision=revision, deployment=deployment, position=position,
                announce=position == 1,
            )  # fmt: skip
    return deployment


@deed(Action.DEPLOYMENT_CANCELLED, target="deployment")
def cancel_deployment(*, actor: Actor, deployment: Deployment) -> Deployment:
    """Give up on the nodes that have not begun, and on those whose worker is gone. Needs APPLY.

    Nodes that carry the revision already are put back. Refused("nothing") where there is none to give up on.
    """
    require(actor=actor, permission=APPLY)
    lock_cluster(deployment.cluster)
    deployment = Deployment.objects.get(pk=deployment.pk)
    if deployment.state not in DEPLOYMENT_ACTIVE:
        raise Refused("state", f"This deployment is over ({deployment.state}); there is nothing to cancel.")
    names = cancel_queued_jobs(actor=actor, deployment=deployment) + _abandon_jobs(deployment)
    names += _call_back_unconfirmed(deployment)
    if not names:
        raise Refused(
            "nothing",
            "No node is left that has not begun, and what is at work cannot be stopped. Wait for the result"
            " and roll back if needed.",
        )
    Deployment.objects.filter(pk=deployment.pk).update(cancelled_by=actor)
    audit.record(actor=actor, action=Action.DEPLOYMENT_CANCELLED, target=deployment, facts={"nodes": names})
    finalize_deployment(deployment=deployment)
    deployment.refresh_from_db()
    return deployment


def _require_free_nodes(cluster: Cluster) -> list[Node]:
    """The cluster's nodes in the order of a roll-out, none at work. A convergence or a drill that
    nobody has begun makes room."""
    running = find_running(cluster)
    if running is not None:
        raise Refused(
            "busy", f"Revision {running.revision.number} is being applied; wait until that is over."
        )
    nodes = order_nodes(cluster=cluster, nodes=Node.objects.filter(cluster=cluster, enabled=True))
    if not nodes:
        raise Refused(
            "nothing", f"The cluster {cluster} has no node that takes part; add or enable one first."
        )
    queued = Job.objects.filter(node__in=nodes, state=JobState.QUEUED)
    # A drill that has begun has armed the guard: it has to end first.
    for job in queued.exclude(reason=Job.Reason.DRILL, attempts__gt=0):
        if Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
            state=JobState.CANCELLED, finished_at=timezone.now()
        ):
            audit.record(
                actor=None, action=Action.JOB_CANCELLED, target=job, facts={"why": "a deployment begins"}
            )
    busy = Job.objects.filter(node__in=nodes, state__in=JOB_ACTIVE).select_related("node").first()
    if busy is not None:
        doing = (
            "is in a rollback drill"
            if busy.reason == Job.Reason.DRILL
            else f"is being brought back to revision {busy.revision.number}"
        )
        raise Refused("busy", f"The node {busy.node} {doing} just now; try again in a moment.")
    return nodes


def _call_back_unconfirmed(deployment: Deployment) -> list[str]:
    """Tell the nodes that wait for their confirm; each puts itself back when it looks."""
    found = Job.objects.filter(deployment=deployment, state=JobState.UNCONFIRMED, confirmed_by=None)
    jobs = list(found.select_related("node"))
    for job in jobs:
        publish_confirm_on_commit(job)
    return [job.node.name for job in jobs]


def _abandon_jobs(deployment: Deployment) -> list[str]:
    """Fail the jobs whose worker is gone for good; what those kernels hold, nobody knows."""
    names, now = [], timezone.now()
    error = "The worker went away while it was at this job."
    for job in Job.objects.filter(deployment=deployment, state=JobState.RUNNING).select_related("node"):
        mine = Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING)
        if is_gone(job=job, now=now) and mine.update(state=JobState.FAILED, error=error, finished_at=now):
            names.append(job.node.name)
            Node.objects.filter(pk=job.node_id).update(carried_revision=None, in_sync=None, sync_detail=error)
            facts = {"node": job.node.name, "error": error}
            audit.record(actor=None, action=Action.JOB_FAILED, target=job, facts=facts)
    return names


def _create_deployment(
    *, actor: Actor, change: Change, revision: Revision, emergency: Emergency | None
) -> Deployment:
    """Refused("busy") where the database's constraint says that one is running, whatever was read before."""
    try:
        with transaction.atomic():
            return Deployment.objects.create(
                cluster=change.cluster,
                revision=revision,
                change=change,
                emergency=emergency,
                requested_by=actor or change.author,
                created_at=timezone.now(),
            )
    except IntegrityError as error:
        raise Refused(
            "busy", "Another deployment is running in this cluster; wait until it is over."
        ) from error


def why_not_deployable(job: Job) -> str | None:
    """Whether a deployment's job may be carried out: everything is asked again, nothing is taken on trust."""
    deployment = job.deployment
    if deployment is None or deployment.state not in DEPLOYMENT_ACTIVE:
        return "The deployment of this job is not running."
    if deployment.revision_id != job.revision_id or job.revision.change_id != deployment.change_id:
        return "The job, its deployment and its revision do not belong together."
    not_yet = why_not_yet(job)
    if not_yet:
        return not_yet
    try:
        document = candidate_document(deployment.change)
        if dump_document(document) != job.revision.document:
            return f"{job.revision} is not what the change makes of the live configuration."
        return why_not_let_through(change=deployment.change, emergency=deployment.emergency)
    except Refused as refusal:
        return refusal.message
