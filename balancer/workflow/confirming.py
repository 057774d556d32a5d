"""Commit-confirm, the worker's part: arm the guard, write, look whether the node is still well, confirm.

Every step can be the last one of this process. What the guard's disk says is then the truth, and whoever
comes next reads it there first (`end_of_earlier`): confirmed is confirmed, put back is put back, and what
still waits goes on waiting with the deadline that it had.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial

from django.db import DatabaseError, connection

from balancer.domain.codec import dump_document, load_document
from balancer.domain.lifecycle import JobState
from balancer.domain.operation import Confirm
from balancer.domain.types import Document
from balancer.kernel.base import Kernel, KernelError, Permit
from balancer.kernel.guard import Candidate, Guard, TooLate
from balancer.kernel.guard_files import GuardError
from balancer.kernel.guard_state import Confirmed
from balancer.kernel.guardian import rulesets_of
from balancer.models import Deployment, Job, Revision
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.clock import Clock
from balancer.workflow.effective import Effective, effective_of, effective_of_job
from balancer.workflow.health_carrying import carry_health_of_job
from balancer.workflow.job_records import UNENDED, Outcome, as_steps, note, record
from balancer.workflow.revisions import (
    is_outdated,
    kept_texts,
    live_revision,
    node_rulesets,
    render_node_rulesets,
)

PATIENCE_SECONDS = 10.0
"""How long a worker goes on checking before it does so at its ticks, which leaves it free for them."""
PAUSE_SECONDS = 0.5
RESTORE_GRACE = timedelta(seconds=60)
"""After a deadline; a guard that has not gone back by then cannot."""
CHECKS = "checks"


@dataclass(frozen=True, slots=True)
class ConfirmProbe:
    """One check between commit and confirm."""

    name: str
    passed: bool | None
    """None: it could not be asked, which stops nothing."""
    text: str


Checks = Callable[[Document, frozenset[str], Callable[[], None]], tuple[ConfirmProbe, ...]]
"""What else is asked after a commit, of the document that is live then and the services that were touched. It
calls the last one now and then, in the caller's thread: health must not wait for answers that never come."""


def no_checks(
    document: Document, touched: frozenset[str], meanwhile: Callable[[], None]
) -> tuple[ConfirmProbe, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a worker works with."""

    kernel: Kernel
    guard: Guard
    confirm: Checks
    clock: Clock
    pause: Callable[[float], None] = time.sleep


def confirmed_state(revision: Revision, effective: Effective) -> Confirmed:
    """A revision with the overrides laid over it, as a guard keeps it: with the weights as declared."""
    return Confirmed(
        cluster=revision.cluster.name,
        revision=revision.number,
        digest=revision.digest,
        document=dump_document(effective.approved),
        rulesets=_texts_of(revision, effective),
        overrides=effective.digest,
    )


def _texts_of(revision: Revision, effective: Effective) -> dict[str, str]:
    """Those that were kept, where another lbadmin compiled them: that is what the node carries."""
    if is_outdated(revision) and not effective.overrides:
        return kept_texts(revision)
    return render_node_rulesets(effective.approved)


def end_of_earlier(*, job: Job, guard: Guard) -> Outcome | None:
    """How an earlier attempt at this job ended on the node itself; None where it did not."""
    confirmed, restored = guard.confirmed(), guard.last_outcome()
    if confirmed is not None and confirmed.job == str(job.pk):
        return Outcome(
            steps=["It was confirmed before the worker could write that down."], confirmed_by=CHECKS
        )
    if restored is not None and restored.job == str(job.pk):
        return Outcome(error=restored.text, restored=restored)
    return None


def arm_guard(*, job: Job, guard: Guard) -> str:
    """The token; that of an earlier attempt where it still waits. Raises GuardError."""
    pending = guard.pending()
    if pending is not None and pending.job == str(job.pk):
        return pending.token
    candidate = Candidate(
        job=str(job.pk),
        cluster=job.node.cluster.name,
        revision=job.revision.number,
        digest=job.revision.digest,
    )
    cluster = job.node.cluster
    live = live_revision(cluster)
    return guard.arm(
        confirmed=confirmed_state(live, effective_of(cluster=cluster, revision=live)),
        candidate=candidate,
        seconds=job.node.cluster.operation.confirm_seconds,
    )


def settle(*, job: Job, token: str, outcome: Outcome, bench: Bench) -> JobState | None:
    """After the commit: confirm at once, or leave the job waiting for it."""
    policy = job.node.cluster.operation.confirm
    note(job, *outcome.steps, "Read back and verified.", clock=bench.clock)
    Job.objects.filter(pk=job.pk, claim=job.claim).update(receipt=outcome.receipt)
    waited = 0.0
    while True:
        carry_health_of_job(job=job, token=token, tools=bench)
        probes = make_probes(job=job, token=token, bench=bench)
        if policy is not Confirm.MANUAL and have_passed(probes):
            state = confirm(job=job, token=token, outcome=outcome, by=CHECKS, bench=bench)
            if state is not None:
                return state
            break
        if policy is Confirm.MANUAL or waited >= PATIENCE_SECONDS or bench.guard.remaining() <= 0:
            break
        bench.pause(PAUSE_SECONDS)
        waited += PAUSE_SECONDS
    return _await_confirm(job=job, bench=bench)


def look_after_unconfirmed(*, job: Job, bench: Bench) -> JobState | None:
    """One more look at a job that waits for its confirm; its state afterwards."""
    ended = end_of_earlier(job=job, guard=bench.guard)
    if ended is not None:
        return record(job=job, outcome=ended, clock=bench.clock)
    pending = bench.guard.pending()
    if pending is None or pending.job != str(job.pk):
        return _wait_for_guard(job=job, bench=bench)
    why = _why_put_back(job)
    if why:
        return _put_back(job=job, token=pending.token, why=why, bench=bench)
    carry_health_of_job(job=job, token=pending.token, tools=bench)
    if job.confirmed_by is not None:
        by = job.confirmed_by.get_username()
        return confirm(job=job, token=pending.token, outcome=Outcome(), by=by, bench=bench)
    if job.node.cluster.operation.confirm is Confirm.MANUAL:
        return JobState.UNCONFIRMED
    if have_passed(make_probes(job=job, token=pending.token, bench=bench)):
        return confirm(job=job, token=pending.token, outcome=Outcome(), by=CHECKS, bench=bench)
    return JobState.UNCONFIRMED


def confirm(*, job: Job, token: str, outcome: Outcome, by: str, bench: Bench) -> JobState | None:
    """Tell the guard, then write it down; None where the guard was faster."""
    try:
        bench.guard.confirm(token=token, confirmed=confirmed_state(job.revision, effective_of_job(job)))
    except TooLate:
        return None
    text = "Confirmed: every check holds." if by == CHECKS else f"Confirmed by {by}."
    ended = Outcome(receipt=outcome.receipt, steps=[text], confirmed_by=by)
    return record(job=job, outcome=ended, clock=bench.clock)


def make_probes(*, job: Job, token: str, bench: Bench) -> tuple[ConfirmProbe, ...]:
    """All checks, kept with the job: that they could be kept is the first of them."""
    touched = frozenset(job.deployment.change.drafts.values_list("service_name", flat=True))
    document = effective_of_job(job).healthy
    carry = partial(carry_health_of_job, job=job, token=token, tools=bench)
    probes = (_read_back(job=job, kernel=bench.kernel), *bench.confirm(document, touched, carry))
    reached = ConfirmProbe("database", True, "The database took the record of this.")
    kept = [asdict(probe) for probe in (reached, *probes)]
    try:
        Job.objects.filter(pk=job.pk, claim=job.claim, state__in=UNENDED).update(probes=kept)
    except DatabaseError as error:
        connection.close_if_unusable_or_obsolete()
        reached = ConfirmProbe("database", False, f"The database did not take the record of this: {error}")
    return (reached, *probes)


def put_back(*, before: Confirmed, token: str, bench: Bench) -> None:
    """Make the kernel carry what was confirmed before, and tell the guard. Raises KernelError, GuardError."""
    document = load_document(before.document)[0] or Document()
    permit = permit_of(guard=bench.guard, token=token)
    for ruleset in rulesets_of(before):
        bench.kernel.sync(ruleset=ruleset, document=document, permit=permit)
    bench.guard.disarm(token=token)


def have_passed(probes: tuple[ConfirmProbe, ...]) -> bool:
    return all(probe.passed is not False for probe in probes)


def permit_of(*, guard: Guard, token: str) -> Permit:
    """Nothing is written once the guard goes back: nobody would undo it."""
    return partial(guard.require_armed, token=token)


def _read_back(*, job: Job, kernel: Kernel) -> ConfirmProbe:
    try:
        lines = [
            line
            for ruleset in node_rulesets(effective_of_job(job).document).values()
            for line in kernel.compare(ruleset=ruleset).lines
        ]
    except KernelError as error:
        return ConfirmProbe("read-back", False, f"The kernel could not be read back: {error}")
    if lines:
        return ConfirmProbe("read-back", False, f"The kernel differs from what was written: {lines[0]}")
    return ConfirmProbe("read-back", True, f"Read back, the kernel carries revision {job.revision.number}.")


def _await_confirm(*, job: Job, bench: Bench) -> JobState | None:
    """From now on a tick, a person or the guard ends the job."""
    left = bench.guard.remaining()
    text = f"Waiting for a confirm, {left:.0f} seconds; without one the node's guard puts the old rules back."
    with audit.writing():
        waiting = Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING).update(
            state=JobState.UNCONFIRMED,
            confirm_by=bench.clock() + timedelta(seconds=left),
            steps=[*job.steps, *as_steps([text], at=bench.clock())],
        )
        if not waiting:
            return None
        facts = {"node": job.node.name, "revision": job.revision.number, "seconds": round(left)}
        audit.record(actor=None, action=Action.JOB_UNCONFIRMED, target=job, facts=facts)
    return JobState.UNCONFIRMED


def _wait_for_guard(*, job: Job, bench: Bench) -> JobState | None:
    """It goes back at this moment. Where it never says so, nobody knows what the kernel holds."""
    if job.confirm_by is not None and bench.clock() < job.confirm_by + RESTORE_GRACE:
        return JobState.UNCONFIRMED
    error = (
        f"Revision {job.revision.number} was not confirmed, and the node's guard has not said that it put the"
        " old rules back. Look at its log; the node is brought back to what is live now."
    )
    return record(job=job, outcome=Outcome(error=error, known=False), clock=bench.clock)


def _why_put_back(job: Job) -> str:
    """Why this revision will not be live, so that there is no reason to wait for the deadline; or empty."""
    deployment = Deployment.objects.select_related("cancelled_by").get(pk=job.deployment_id)
    if deployment.cancelled_by is None:
        return ""
    return f"{deployment.cancelled_by.get_username()} cancelled the deployment"


def _put_back(*, job: Job, token: str, why: str, bench: Bench) -> JobState | None:
    before = bench.guard.confirmed()
    if before is None:
        return JobState.UNCONFIRMED
    try:
        put_back(before=before, token=token, bench=bench)
    except (KernelError, GuardError):
        return JobState.UNCONFIRMED  # at the next tick, or by the guard
    revisions = Revision.objects.filter(cluster=job.node.cluster_id)
    carried = revisions.filter(number=before.revision, digest=before.digest).first()
    error = f"{why}, so this node was put back to revision {before.revision} unconfirmed."
    outcome = Outcome(error=error, carried=carried, overrides=before.overrides, known=carried is not None)
    return record(job=job, outcome=outcome, clock=bench.clock)
