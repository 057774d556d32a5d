"""The end of a deployment: the next node's turn, live when all carry it, or put back."""

from django.utils import timezone

from balancer.domain.lifecycle import (
    DEPLOYMENT_ACTIVE,
    JOB_ENDED,
    JOB_PASSED,
    JOB_STOPPING,
    ChangeDeed,
    DeploymentState,
    JobState,
)
from balancer.models import Cluster, Deployment, Job
from balancer.workflow import audit
from balancer.workflow.absence import may_skip, record_skip
from balancer.workflow.audit import Action
from balancer.workflow.changes import advance, lock_change, lock_cluster
from balancer.workflow.clock import Clock
from balancer.workflow.evidence import seal_evidence
from balancer.workflow.live import write_live_rows
from balancer.workflow.queue import publish_on_commit
from balancer.workflow.queueing import cancel_queued_jobs, queue_job
from balancer.workflow.revisions import document_of, live_revision
from balancer.workflow.rollout import describe_cancel, find_next, find_running


def finalize_deployment(*, deployment: Deployment) -> None:
    """After the end of a job: call the next node; or stop the roll-out and put back what it changed; or make
    it live, when every node carries it that was not left out.

    Runs in the transaction that records the end of a job, with the cluster locked, so the last of several
    nodes is the one that sees them all ended.
    """
    deployment = Deployment.objects.select_related("cluster", "change", "revision").get(pk=deployment.pk)
    if deployment.state not in DEPLOYMENT_ACTIVE:
        return
    states = _job_states(deployment)
    if states & JOB_STOPPING and JobState.QUEUED in states:
        cancel_queued_jobs(actor=None, deployment=deployment)
        states = _job_states(deployment)
    if not states <= JOB_ENDED:
        following = find_next(deployment)
        if following is not None:
            publish_on_commit(following)
    elif states <= JOB_PASSED and JobState.SUCCEEDED in states:
        _make_live(deployment)
        seal_evidence(deployment=deployment)
    else:
        _give_up(deployment, state=_unhappy_end(deployment, states))
        seal_evidence(deployment=deployment)


def skip_absent_node(*, cluster: Cluster, clock: Clock = timezone.now) -> None:
    """Where a roll-out waits for a node that is down and that the policy leaves out: let it go on.

    Asked in the tick of every worker of the cluster; one of them does it.
    """
    deployment = find_running(cluster)
    job = find_next(deployment) if deployment is not None else None
    if deployment is None or job is None or not may_skip(job=job, cluster=cluster, clock=clock):
        return
    with audit.writing():
        lock_cluster(cluster)
        skipped = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
            state=JobState.SKIPPED, finished_at=clock()
        )
        if skipped:
            record_skip(job)
            finalize_deployment(deployment=deployment)


def _unhappy_end(deployment: Deployment, states: set[JobState]) -> DeploymentState:
    if deployment.jobs.filter(restored__isnull=False).exists():
        return DeploymentState.ROLLED_BACK
    if deployment.cancelled_by_id is not None:
        return DeploymentState.CANCELLED
    return DeploymentState.FAILED if states & JOB_STOPPING else DeploymentState.CANCELLED


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
    jobs = list(deployment.jobs.select_related("node").order_by("position", "node__name"))
    wrong = [f"{job.node.name}: {job.error}" for job in jobs if job.state in JOB_STOPPING]
    error = " ".join(wrong) or describe_cancel(jobs)
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
