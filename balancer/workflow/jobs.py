"""One job on its node: claim it, check everything again, act on the kernel, record what came of it.

No transaction is open while the kernel is at work. A worker that dies in between leaves a row in the state
running with its identity in it, which `recover_jobs` finds.
"""

import logging
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from django.utils import timezone

from balancer.domain.lifecycle import JOB_ENDED, JobState
from balancer.domain.overrides import Override, digest_overrides
from balancer.kernel.base import Busy, Kernel, KernelError, OutcomeUnknown
from balancer.models import Deployment, Job, Node
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.changes import lock_cluster
from balancer.workflow.claims import is_alive
from balancer.workflow.clock import Clock
from balancer.workflow.deployments import finalize_deployment, why_not_deployable
from balancer.workflow.effective import effective_of
from balancer.workflow.messages import record_refused_job
from balancer.workflow.revisions import compile_rulesets, live_revision, why_not_genuine
from balancer.workflow.rollout import why_not_yet

ATTEMPTS_MAX = 5
"""Workers that may die over one job."""
SYNCS_MAX = 3
"""Tries of one worker while the kernel is busy or cannot say what it holds."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outcome:
    """What came of acting; `known` is false where the kernel may hold something else than before or after."""

    error: str = ""
    known: bool = True
    refused: bool = False
    receipt: dict[str, Any] | None = None
    steps: list[str] = field(default_factory=list)
    overrides: tuple[Override, ...] = ()
    """Those that were laid over the revision's document."""


def run_job(
    *, job_id: str, node_name: str, kernel: Kernel, identity: str, clock: Clock = timezone.now
) -> JobState | None:
    """Carry out a queued job of this node; its state afterwards, None where it was not ours to run.

    `node_name` is the worker's own, never the message's. Anything that does not fit (an unknown job, another
    node's, one that has ended, approvals that do not hold, a ruleset that does not match its document) is
    refused, changes nothing and leaves an audit event.
    """
    job = _claim(job_id=job_id, node_name=node_name, identity=identity, clock=clock)
    if job is None:
        return None
    why_not = why_not_deployable(job) if job.deployment else _why_not_convergence(job)
    why_not = why_not or why_not_genuine(job.revision)
    if why_not is not None:
        return _record(job=job, outcome=_Outcome(error=why_not, refused=True), clock=clock)
    _note(job, "Checked: approved, unchanged, and it compiles to the same ruleset.", clock=clock)
    outcome = _act(job=job, kernel=kernel, clock=clock)
    return _record(job=job, outcome=outcome, clock=clock)


def recover_jobs(*, node: Node, identity: str, clock: Clock = timezone.now) -> bool:
    """Queue again what a dead worker of this node left running; False where a living one is still at it."""
    for job in Job.objects.filter(node=node, state=JobState.RUNNING).select_related("node", "revision"):
        if job.claimed_by != identity and is_alive(job.claimed_by):
            return False
        if job.attempts >= ATTEMPTS_MAX:
            error = f"The worker died {job.attempts} times while it was at this job."
            _record(job=job, outcome=_Outcome(error=error, known=False), clock=clock)
        else:
            _requeue(job)
    return True


def _claim(*, job_id: str, node_name: str, identity: str, clock: Clock) -> Job | None:
    with audit.writing():
        job = _find(job_id)
        code, why_not = _why_not_claimable(job, node_name=node_name)
        token = uuid.uuid4()
        if job is not None and not code:
            claimed = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
                state=JobState.RUNNING,
                claim=token,
                claimed_by=identity,
                claimed_at=clock(),
                attempts=job.attempts + 1,
            )
            if claimed == 1:
                job.refresh_from_db()
                facts = {"node": node_name, "attempt": job.attempts, "claimer": identity}
                audit.record(actor=None, action=Action.JOB_CLAIMED, target=job, facts=facts)
                return job
            code, why_not = "running", "Another process claimed the job at the same moment."
        record_refused_job(node=node_name, code=code, message=why_not, job=job, job_id=ascii(job_id)[1:-1])
    return None


def _find(job_id: str) -> Job | None:
    try:
        key = uuid.UUID(job_id)
    except (ValueError, AttributeError, TypeError):
        return None
    related = ("node", "revision", "deployment__change", "deployment__revision", "deployment__cluster")
    return Job.objects.select_related(*related).filter(pk=key).first()


def _why_not_claimable(job: Job | None, *, node_name: str) -> tuple[str, str]:
    """(code, sentence), both empty where the job can be claimed."""
    if job is None:
        return "unknown-job", "There is no such job."
    if job.node.name != node_name:
        return "other-node", f"The job is for the node {job.node.name}."
    if job.state in JOB_ENDED:
        return "ended", f"The job has ended already ({job.state}); nothing was done."
    if job.state != JobState.QUEUED:
        return "running", "The job is being carried out already."
    not_yet = why_not_yet(job)
    return ("not-yet", not_yet) if not_yet else ("", "")


def _why_not_convergence(job: Job) -> str | None:
    """A convergence may only bring what is live."""
    if live_revision(job.node.cluster).pk != job.revision_id:
        return f"{job.revision} is not what the cluster's nodes should carry."
    return None


def _act(*, job: Job, kernel: Kernel, clock: Clock) -> _Outcome:
    """Make the kernel carry the revision; again where that can help."""
    _note(job, "Writing the rules into the kernel.", clock=clock)
    for _ in range(SYNCS_MAX - 1):
        try:
            return _sync(job=job, kernel=kernel)
        except (Busy, OutcomeUnknown) as error:
            _note(job, f"{error} Trying once more.", clock=clock)
        except Exception as error:  # noqa: BLE001 - whatever a driver does wrong, the job must not stay running
            return _failure(job, error)
    try:
        return _sync(job=job, kernel=kernel)
    except Exception as error:  # noqa: BLE001 - as above
        return _failure(job, error)


def _failure(job: Job, error: Exception) -> _Outcome:
    if isinstance(error, KernelError):
        return _Outcome(error=str(error), known=not isinstance(error, OutcomeUnknown))
    logger.error("Job %s failed unexpectedly.", job.pk, exc_info=error)
    return _Outcome(error=f"Unexpected {type(error).__name__}: {error}", known=False)


def _sync(*, job: Job, kernel: Kernel) -> _Outcome:
    effective = effective_of(cluster=job.node.cluster, revision=job.revision)
    outcome = _Outcome(receipt={}, overrides=effective.overrides)
    overrides = [override.to_data() for override in effective.overrides]
    for family, ruleset in compile_rulesets(effective.document).items():
        receipt = kernel.sync(ruleset=ruleset, document=effective.document)
        assert outcome.receipt is not None
        outcome.receipt[str(family)] = asdict(receipt) | {"overrides": overrides}
        outcome.steps += [*receipt.steps, *(f"Warning: {warning}" for warning in receipt.warnings)]
        if not receipt.changed:
            outcome.steps.append("The kernel carried these rules already; nothing was written.")
    return outcome


def _record(*, job: Job, outcome: _Outcome, clock: Clock) -> JobState | None:
    """Write down the end of a job, by the token of its claim, and end the deployment with the last one."""
    with audit.writing():
        lock_cluster(job.node.cluster)
        state = JobState.FAILED if outcome.error else JobState.SUCCEEDED
        texts = [*outcome.steps, outcome.error or "Read back and verified."]
        ended = Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING).update(
            state=state,
            finished_at=clock(),
            error=outcome.error,
            receipt=outcome.receipt,
            steps=[*job.steps, *({"at": clock().isoformat(), "text": text} for text in texts)],
        )
        if ended != 1:
            message = "The claim on the job was lost; its outcome was not recorded."
            record_refused_job(node=job.node.name, code="claim-lost", message=message, job=job)
            return None
        _record_on_node(job=job, outcome=outcome, clock=clock)
        _record_events(job=job, outcome=outcome, state=state)
        if job.deployment_id is not None:
            finalize_deployment(deployment=Deployment.objects.get(pk=job.deployment_id))
    return state


def _record_on_node(*, job: Job, outcome: _Outcome, clock: Clock) -> None:
    node = Node.objects.filter(pk=job.node_id)
    if not outcome.error:
        carried = {"carried_revision": job.revision, "carried_overrides": digest_overrides(outcome.overrides)}
        node.update(**carried, in_sync=True, sync_detail="", checked_at=clock())
    elif not outcome.known:
        node.update(carried_revision=None, in_sync=None, sync_detail=outcome.error, checked_at=clock())


def _record_events(*, job: Job, outcome: _Outcome, state: JobState) -> None:
    facts: dict[str, Any] = {"node": job.node.name, "revision": job.revision.number, "reason": job.reason}
    if outcome.refused:
        record_refused_job(node=job.node.name, code="not-genuine", message=outcome.error, job=job)
    if outcome.error:
        facts["error"] = outcome.error
    elif outcome.receipt is not None:
        facts["changed"] = any(receipt["changed"] for receipt in outcome.receipt.values())
    action = Action.JOB_SUCCEEDED if state is JobState.SUCCEEDED else Action.JOB_FAILED
    audit.record(actor=None, action=action, target=job, facts=facts)


def _requeue(job: Job) -> None:
    with audit.writing():
        freed = Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING).update(
            state=JobState.QUEUED, claim=None, claimed_by="", steps=[]
        )
        if freed:
            facts = {"node": job.node.name, "attempts": job.attempts, "claimer": job.claimed_by}
            audit.record(actor=None, action=Action.JOB_REQUEUED, target=job, facts=facts)


def _note(job: Job, text: str, *, clock: Clock) -> None:
    """A step for the progress view; only the holder of the claim writes it."""
    job.steps = [*job.steps, {"at": clock().isoformat(), "text": text}]
    Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING).update(steps=job.steps)
