"""One job on its node: claim it, check everything again, act on the kernel, record what came of it.

No transaction is open while the kernel is at work. A worker that dies in between leaves a row in the state
running with its identity in it, which `recover_jobs` finds.
"""

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from django.utils import timezone

from balancer.domain.lifecycle import JOB_ENDED, JobState
from balancer.kernel.base import Kernel, OutcomeUnknown
from balancer.kernel.guard import Guard
from balancer.kernel.guard_files import GuardError
from balancer.models import Job, Node
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.claims import is_alive
from balancer.workflow.clock import Clock
from balancer.workflow.confirming import (
    Bench,
    Checks,
    arm_guard,
    confirmed_state,
    end_of_earlier,
    look_after_unconfirmed,
    no_checks,
    permit_of,
    settle,
)
from balancer.workflow.deployments import why_not_deployable
from balancer.workflow.drilling import run_drill
from balancer.workflow.drills import why_no_drill
from balancer.workflow.effective import effective_of_job
from balancer.workflow.job_records import Outcome, note, record
from balancer.workflow.messages import record_refused_job
from balancer.workflow.revisions import live_revision, node_rulesets, why_not_genuine
from balancer.workflow.rollout import why_not_yet
from balancer.workflow.writing import undo, write_rules

ATTEMPTS_MAX = 5
"""Workers that may die over one job."""

logger = logging.getLogger(__name__)


def run_job(
    *,
    job_id: str,
    node_name: str,
    kernel: Kernel,
    guard: Guard,
    identity: str,
    confirm: Checks = no_checks,
    clock: Clock = timezone.now,
    pause: Callable[[float], None] = time.sleep,
) -> JobState | None:
    """Carry out a queued job of this node; its state afterwards, None where it was not ours to run.

    `node_name` is the worker's own, never the message's. Anything that does not fit (an unknown job, another
    node's, one that has ended, approvals that do not hold, a ruleset that does not match its document) is
    refused, changes nothing and leaves an audit event. `confirm` makes the checks after the commit of a
    deployment that are not this module's own; a state of UNCONFIRMED is looked after by later ticks.
    """
    job = _claim(job_id=job_id, node_name=node_name, identity=identity, clock=clock)
    if job is None:
        return None
    why_not = why_not_deployable(job) if job.deployment else _why_not_convergence(job)
    why_not = why_not or why_not_genuine(job.revision)
    if why_not is not None:
        return record(job=job, outcome=Outcome(error=why_not, refused=True), clock=clock)
    note(job, "Checked: approved, unchanged, and it compiles to the same ruleset.", clock=clock)
    bench = Bench(kernel=kernel, guard=guard, confirm=confirm, clock=clock, pause=pause)
    if job.reason == Job.Reason.DRILL:
        return run_drill(job=job, bench=bench)
    return _deploy(job=job, bench=bench) if job.deployment else _converge(job=job, bench=bench)


def confirm_job(*, job_id: str, node_name: str, bench: Bench) -> JobState | None:
    """A hint that a person has confirmed: the same look as at a tick, only at once."""
    job = _find(job_id)
    if job is None or job.node.name != node_name or job.state != JobState.UNCONFIRMED:
        message = "There is no job of this node with that number that waits for a confirm."
        with audit.writing():
            record_refused_job(
                node=node_name, code="not-waiting", message=message, job=job, job_id=ascii(job_id)[1:-1]
            )
        return None
    return look_after_unconfirmed(job=job, bench=bench)


def recover_jobs(*, node: Node, identity: str, clock: Clock = timezone.now) -> bool:
    """Queue again what a dead worker of this node left running; False where a living one is still at it."""
    for job in Job.objects.filter(node=node, state=JobState.RUNNING).select_related("node", "revision"):
        if job.claimed_by != identity and is_alive(job.claimed_by):
            return False
        if job.attempts >= ATTEMPTS_MAX:
            error = f"The worker died {job.attempts} times while it was at this job."
            record(job=job, outcome=Outcome(error=error, known=False), clock=clock)
        else:
            _requeue(job)
    return True


def _claim(*, job_id: str, node_name: str, identity: str, clock: Clock) -> Job | None:
    with audit.writing():
        job = _find(job_id)
        code, why_not = _why_not_claimable(job, node_name=node_name, clock=clock)
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


def _why_not_claimable(job: Job | None, *, node_name: str, clock: Clock) -> tuple[str, str]:
    """(code, sentence), both empty where the job can be claimed."""
    if job is None:
        return "unknown-job", "There is no such job."
    if job.node.name != node_name:
        return "other-node", f"The job is for the node {job.node.name}."
    if job.state in JOB_ENDED:
        return "ended", f"The job has ended already ({job.state}); nothing was done."
    if job.state != JobState.QUEUED:
        return "running", "The job is being carried out already."
    not_now = (
        why_no_drill(job=job, clock=clock) if job.reason == Job.Reason.DRILL and not job.attempts else None
    )
    if not_now is not None:
        return not_now.code, not_now.message
    not_yet = why_not_yet(job)
    return ("not-yet", not_yet) if not_yet else ("", "")


def _why_not_convergence(job: Job) -> str | None:
    """A convergence may only bring what is live, and a drill only try that."""
    if live_revision(job.node.cluster).pk != job.revision_id:
        return f"{job.revision} is not what the cluster's nodes should carry."
    return None


def _deploy(*, job: Job, bench: Bench) -> JobState | None:
    """Arm, write, check, confirm. docs/design/workflow.md says what becomes of a crash at each point."""
    try:
        ended = end_of_earlier(job=job, guard=bench.guard)
        if ended is not None:
            return record(job=job, outcome=ended, clock=bench.clock)
        token = arm_guard(job=job, guard=bench.guard)
    except GuardError as error:
        return record(job=job, outcome=Outcome(error=str(error)), clock=bench.clock)
    left = bench.guard.remaining()
    note(job, f"The guard stands ready: it goes back in {left:.0f} seconds unless told.", clock=bench.clock)
    outcome = write_rules(job=job, bench=bench, permit=permit_of(guard=bench.guard, token=token))
    if outcome.error:
        if outcome.partly:
            undo(token=token, outcome=outcome, bench=bench)
        elif outcome.known:
            with suppress(GuardError):  # it would put back what is there
                bench.guard.disarm(token=token)
        return record(job=job, outcome=outcome, clock=bench.clock)
    return settle(job=job, token=token, outcome=outcome, bench=bench)


def _converge(*, job: Job, bench: Bench) -> JobState | None:
    """What is live needs no confirm; the guard is told what it goes back to from now on."""
    outcome = write_rules(job=job, bench=bench, afterwards=_tell_guard)
    if not outcome.error:
        outcome.steps.append("Read back and verified.")
    return record(job=job, outcome=outcome, clock=bench.clock)


def _tell_guard(job: Job, bench: Bench) -> list[str]:
    """Warnings. Looks once more: a guard that was just started may have loaded what it knew before."""
    effective = effective_of_job(job)
    try:
        bench.guard.remember(confirmed=confirmed_state(job.revision, effective))
    except GuardError as error:
        return [f"Warning: {error} The node's guard does not know of this revision."]
    for ruleset in node_rulesets(effective.document).values():
        if not bench.kernel.compare(ruleset=ruleset).in_sync:
            raise OutcomeUnknown("Looked at once more, the kernel carries something else.")
    return []


def _requeue(job: Job) -> None:
    with audit.writing():
        freed = Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING).update(
            state=JobState.QUEUED, claim=None, claimed_by="", steps=[]
        )
        if freed:
            facts = {"node": job.node.name, "attempts": job.attempts, "claimer": job.claimed_by}
            audit.record(actor=None, action=Action.JOB_REQUEUED, target=job, facts=facts)
