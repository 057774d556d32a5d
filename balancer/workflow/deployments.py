"""Bringing an approved change to every node, and making it live when every node carries it."""

from django.db import IntegrityError, transaction
from django.utils import timezone

from balancer.domain.codec import dump_document
from balancer.domain.lifecycle import (
    DEPLOYMENT_ACTIVE,
    JOB_ACTIVE,
    JOB_ENDED,
    ChangeDeed,
    DeploymentState,
    JobState,
)
from balancer.models import Change, Cluster, Deployment, Job, Node, Revision
from balancer.workflow import audit
from balancer.workflow.approvals import why_not_approved
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import advance, lock_change, lock_cluster, require_current
from balancer.workflow.documents import candidate_document
from balancer.workflow.errors import Refused
from balancer.workflow.live import write_live_rows
from balancer.workflow.permissions import APPLY, Actor, require
from balancer.workflow.presence import is_gone
from balancer.workflow.queue import publish_on_commit
from balancer.workflow.revisions import create_revision, document_of, live_revision


@deed(Action.DEPLOYMENT_STARTED, target="change")
def apply_change(*, actor: Actor, change: Change) -> Deployment:
    """Make a revision of an approved (or failed) change and queue one job for each node. Needs APPLY.

    Refused: "state", "stale" (live moved under the drafts; the sentence says what), "invalid", "not-approved"
    (the approval does not hold), "busy" (another deployment or a convergence runs), "nothing" (no nodes).
    """
    require(actor=actor, permission=APPLY)
    cluster = lock_cluster(change.cluster)
    change = lock_change(change)
    advance(change=change, deed=ChangeDeed.APPLY)
    require_current(change)
    why_not = why_not_approved(change)
    if why_not is not None:
        raise Refused("not-approved", f"{why_not} Withdraw it, submit it again and have it approved.")
    document = candidate_document(change)
    nodes = _require_free_nodes(cluster)
    revision = create_revision(actor=actor, change=change, document=document)
    deployment = _create_deployment(actor=actor, change=change, revision=revision)
    facts = {"revision": revision.number, "change": change.pk, "nodes": [node.name for node in nodes]}
    audit.record(actor=actor, action=Action.DEPLOYMENT_STARTED, target=deployment, facts=facts)
    for node in nodes:
        queue_job(actor=actor, node=node, revision=revision, deployment=deployment)
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
    if not names:
        raise Refused("nothing", "Every node is at work; wait for the result and roll back if needed.")
    audit.record(actor=actor, action=Action.DEPLOYMENT_CANCELLED, target=deployment, facts={"nodes": names})
    finalize_deployment(deployment=deployment)
    deployment.refresh_from_db()
    return deployment


def queue_job(
    *,
    actor: Actor,
    node: Node,
    revision: Revision,
    deployment: Deployment | None = None,
    cause: str = "",
    announce: bool = True,
) -> Job:
    """A job in the state queued, announced to its node after the commit unless the node itself queues it."""
    job = Job.objects.create(
        deployment=deployment,
        node=node,
        revision=revision,
        reason=Job.Reason.DEPLOY if deployment else Job.Reason.CONVERGE,
        cause=cause,
        queued_at=timezone.now(),
    )
    facts = {"node": node.name, "revision": revision.number, "reason": str(job.reason), "cause": cause}
    audit.record(actor=actor, action=Action.JOB_QUEUED, target=job, facts=facts)
    if announce:
        publish_on_commit(job)
    return job


def cancel_queued_jobs(*, actor: Actor, deployment: Deployment) -> list[str]:
    """Cancel what no worker has claimed yet; the names of the nodes concerned."""
    names = []
    for job in Job.objects.filter(deployment=deployment, state=JobState.QUEUED).select_related("node"):
        cancelled = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
            state=JobState.CANCELLED, finished_at=timezone.now()
        )
        if cancelled:
            names.append(job.node.name)
            audit.record(actor=actor, action=Action.JOB_CANCELLED, target=job, facts={"node": job.node.name})
    return names


def finalize_deployment(*, deployment: Deployment) -> None:
    """End a deployment whose jobs have all ended; before that, stop the rest as soon as one has failed.

    Runs in the transaction that records the end of a job, with the cluster locked, so the last of several
    nodes is the one that sees them all ended.
    """
    deployment = Deployment.objects.select_related("cluster", "change", "revision").get(pk=deployment.pk)
    if deployment.state not in DEPLOYMENT_ACTIVE:
        return
    states = _job_states(deployment)
    if JobState.FAILED in states and JobState.QUEUED in states:
        cancel_queued_jobs(actor=None, deployment=deployment)
        states = _job_states(deployment)
    if not states <= JOB_ENDED:
        return
    if states == {JobState.SUCCEEDED}:
        _make_live(deployment)
    else:
        _give_up(deployment, state=_unhappy_end(deployment, states))


def _unhappy_end(deployment: Deployment, states: set[JobState]) -> DeploymentState:
    if deployment.jobs.filter(restored__isnull=False).exists():
        return DeploymentState.ROLLED_BACK
    return DeploymentState.FAILED if JobState.FAILED in states else DeploymentState.CANCELLED


def _require_free_nodes(cluster: Cluster) -> list[Node]:
    """The cluster's nodes, none of them at work. A convergence that nobody has begun makes room."""
    running = Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE).first()
    if running is not None:
        raise Refused(
            "busy", f"Revision {running.revision.number} is being applied; wait until that is over."
        )
    nodes = list(Node.objects.filter(cluster=cluster, enabled=True).order_by("name"))
    if not nodes:
        raise Refused(
            "nothing", f"The cluster {cluster} has no node that takes part; add or enable one first."
        )
    for job in Job.objects.filter(node__in=nodes, state=JobState.QUEUED):
        if Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
            state=JobState.CANCELLED, finished_at=timezone.now()
        ):
            audit.record(
                actor=None, action=Action.JOB_CANCELLED, target=job, facts={"why": "a deployment begins"}
            )
    busy = Job.objects.filter(node__in=nodes, state__in=JOB_ACTIVE).select_related("node").first()
    if busy is not None:
        raise Refused("busy", f"The node {busy.node} is being brought back to revision"
                              f" {busy.revision.number} just now; try again in a moment.")  # fmt: skip
    return nodes


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


def _create_deployment(*, actor: Actor, change: Change, revision: Revision) -> Deployment:
    """Refused("busy") where the database's constraint says that one is running, whatever was read before."""
    try:
        with transaction.atomic():
            return Deployment.objects.create(
                cluster=change.cluster,
                revision=revision,
                change=change,
                requested_by=actor or change.author,
                created_at=timezone.now(),
            )
    except IntegrityError as error:
        raise Refused(
            "busy", "Another deployment is running in this cluster; wait until it is over."
        ) from error


def _job_states(deployment: Deployment) -> set[JobState]:
    return {JobState(state) for state in deployment.jobs.values_list("state", flat=True)}


def _make_live(deployment: Deployment) -> None:
    cluster, change, revision = deployment.cluster, deployment.change, deployment.revision
    before = live_revision(cluster)
    write_live_rows(cluster=cluster, before=document_of(before), after=document_of(revision))
    Cluster.objects.filter(pk=cluster.pk).update(live_revision=revision)
    _end(deployment, state=DeploymentState.SUCCEEDED, error="")
    advance(change=lock_change(change), deed=ChangeDeed.FINISH, closed_at=timezone.now())
    facts = {"revision": revision.number, "was": before.number}
    audit.record(actor=None, action=Action.DEPLOYMENT_SUCCEEDED, target=deployment, facts=facts)
    audit.record(actor=None, action=Action.CHANGE_APPLIED, target=change, facts=facts)


def _give_up(deployment: Deployment, *, state: DeploymentState) -> None:
    jobs = list(deployment.jobs.select_related("node").order_by("node__name"))
    wrong = [f"{job.node.name}: {job.error}" for job in jobs if job.state == JobState.FAILED]
    error = " ".join(wrong) or "The deployment was cancelled before every node had begun."
    _end(deployment, state=state, error=error)
    advance(change=lock_change(deployment.change), deed=ChangeDeed.FAIL)
    facts = {"revision": deployment.revision.number, "error": error}
    if state == DeploymentState.FAILED:
        audit.record(actor=None, action=Action.DEPLOYMENT_FAILED, target=deployment, facts=facts)
    if state == DeploymentState.ROLLED_BACK:
        audit.record(actor=None, action=Action.DEPLOYMENT_ROLLED_BACK, target=deployment, facts=facts)
    audit.record(actor=None, action=Action.CHANGE_FAILED, target=deployment.change, facts=facts)
    live = live_revision(deployment.cluster)
    cause = f"Revision {deployment.revision.number} was not applied everywhere."
    for job in jobs:
        if job.claimed_at is not None:
            queue_job(actor=None, node=job.node, revision=live, cause=cause)


def _end(deployment: Deployment, *, state: DeploymentState, error: str) -> None:
    deployment.state, deployment.error, deployment.finished_at = state, error, timezone.now()
    deployment.save(update_fields=["state", "error", "finished_at"])


def why_not_deployable(job: Job) -> str | None:
    """Whether a deployment's job may be carried out: everything is asked again, nothing is taken on trust."""
    deployment = job.deployment
    if deployment is None or deployment.state not in DEPLOYMENT_ACTIVE:
        return "The deployment of this job is not running."
    if deployment.revision_id != job.revision_id or job.revision.change_id != deployment.change_id:
        return "The job, its deployment and its revision do not belong together."
    try:
        document = candidate_document(deployment.change)
        if dump_document(document) != job.revision.document:
            return f"{job.revision} is not what the change makes of the live configuration."
        return why_not_approved(deployment.change)
    except Refused as refusal:
        return refusal.message
