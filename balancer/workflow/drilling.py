"""A rollback drill on its node: a harmless change that nobody confirms, and the guard has to undo it.

The worker arms the guard with what the node carries, adds a marker, reads it back and then only waits.
Proven is the drill when the guard says that it went back for this very arming, and when the kernel, read
anew, carries what it did before. A worker that is killed in between leaves a job that the next one goes on
with: the token of the arming is kept with it once the marker was read back.
"""

import logging
from dataclasses import asdict

from balancer.domain.lifecycle import JobState
from balancer.domain.types import Document
from balancer.kernel.base import KernelError, OutcomeUnknown
from balancer.kernel.guard import Candidate
from balancer.kernel.guard_files import GuardError
from balancer.kernel.guard_state import Outcome as Restored
from balancer.kernel.guard_state import Why
from balancer.models import Job
from balancer.ruleset.marker import with_marker
from balancer.workflow.confirming import Bench, confirmed_state, permit_of
from balancer.workflow.effective import Effective, effective_of, effective_of_job
from balancer.workflow.job_records import Outcome, note, record
from balancer.workflow.revisions import compile_rulesets, node_rulesets

DRILL_SECONDS = 5.0
"""From the arming to the deadline."""
GRACE_SECONDS = 10.0
"""After the deadline; a guard that is later is no way back."""
PAUSE_SECONDS = 0.2
MARKER = "marker"
TOKEN_LENGTH = 8

logger = logging.getLogger(__name__)


class Unproven(Exception):
    """The drill has shown that the node does not go back, or could not show that it does."""


def run_drill(*, job: Job, bench: Bench) -> JobState | None:
    """The job's state afterwards. What went wrong is told with the job; nothing is raised."""
    begun = job.attempts > 1
    """Something may have been written."""
    try:
        token = _marked_under(job)
        if not token:
            effective = effective_of(cluster=job.node.cluster, revision=job.revision, node=job.node)
            token = _find_armed(job, bench)
            if not token:
                _require_as_it_should(job, effective, bench)
                token = _arm(job, effective, bench)
            begun = True
            _mark(job, effective, bench, token=token)
        outcome = _judge(job, _await_restore(job, bench, token=token), bench)
    except (Unproven, GuardError, KernelError) as error:
        outcome = Outcome(error=f"The rollback drill failed. {error}", known=not begun)
    except Exception as error:
        logger.exception("The drill %s failed unexpectedly.", job.pk)
        outcome = Outcome(
            error=f"The rollback drill failed. Unexpected {type(error).__name__}: {error}", known=not begun
        )
    return record(job=job, outcome=outcome, clock=bench.clock)


def _marked_under(job: Job) -> str:
    """The token of the arming under which the marker was read back; empty where it was not yet."""
    return next((str(probe["token"]) for probe in job.probes if probe["name"] == MARKER), "")


def _find_armed(job: Job, bench: Bench) -> str:
    """Of an earlier attempt, whose worker died before it had read the marker back."""
    pending = bench.guard.pending()
    return pending.token if pending is not None and pending.job == str(job.pk) else ""


def _require_as_it_should(job: Job, effective: Effective, bench: Bench) -> None:
    """A drill must not mend drift in passing: people are shown that, and decide. Raises Unproven."""
    if job.node.carried_revision_id is None:
        return  # nothing was ever applied here
    lines = _differing(effective.document, bench)
    if lines:
        raise Unproven(
            f"It was not begun: the kernel differs from revision {job.revision.number}: {lines[0]}"
        )


def _arm(job: Job, effective: Effective, bench: Bench) -> str:
    candidate = Candidate(
        job=str(job.pk),
        cluster=job.node.cluster.name,
        revision=job.revision.number,
        digest=job.revision.digest,
    )
    confirmed = confirmed_state(job.revision, effective)
    return bench.guard.arm(confirmed=confirmed, candidate=candidate, seconds=DRILL_SECONDS)


def _mark(job: Job, effective: Effective, bench: Bench, *, token: str) -> None:
    """Add the marker, read it back, and keep that with the job.

    Only to the families of the revision: IPv6 tables that are not used are not to be used for a drill.
    """
    job.receipt = {}
    permit = permit_of(guard=bench.guard, token=token)
    for family, ruleset in compile_rulesets(effective.document).items():
        marked = with_marker(ruleset, token=job.pk.hex[:TOKEN_LENGTH])
        receipt = bench.kernel.sync(ruleset=marked, document=effective.document, permit=permit)
        if not bench.kernel.compare(ruleset=marked).in_sync:
            raise OutcomeUnknown("Read back, the kernel does not carry the marker.")
        job.receipt[str(family)] = asdict(receipt) | effective.to_data()
    text = "The marker was read back from the kernel. Nobody confirms; the guard has to take it out."
    job.probes = [{"name": MARKER, "passed": True, "text": text, "token": token}]
    Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING).update(
        receipt=job.receipt, probes=job.probes
    )
    note(job, text, clock=bench.clock)


def _await_restore(job: Job, bench: Bench, *, token: str) -> Restored:
    """What the guard says that it put back for this arming. Raises Unproven where it says nothing."""
    waited, patience = 0.0, bench.guard.remaining() + GRACE_SECONDS
    while True:
        restored = bench.guard.last_outcome()
        if restored is not None and restored.token == token:
            return restored
        if waited >= patience:
            break
        bench.pause(PAUSE_SECONDS)
        waited += PAUSE_SECONDS
    raise Unproven(
        f"{GRACE_SECONDS:g} seconds after the deadline the node's guard had not put the rules back, so a bad"
        " change would have stayed as well. Look at the guard's log and start it again; its worker brings the"
        " node back now."
    )


def _judge(job: Job, restored: Restored, bench: Bench) -> Outcome:
    if restored.why != Why.DEADLINE or restored.late is None:
        raise Unproven(f"Something came in between: {restored.text}")
    if restored.late > GRACE_SECONDS:
        raise Unproven(f"The guard put the rules back only {restored.late:.1f} seconds after the deadline.")
    lines = _differing(effective_of_job(job).approved, bench)
    if lines:
        raise Unproven(f"The guard says that it put the rules back, but the kernel differs: {lines[0]}")
    late = f"{restored.late * 1000:.0f} ms after the deadline"
    text = f"Proven: the node was back {late}, and its rules are as before."
    return Outcome(receipt=job.receipt, steps=[text], proven=restored)


def _differing(document: Document, bench: Bench) -> list[str]:
    rulesets = node_rulesets(document).values()
    return [line for ruleset in rulesets for line in bench.kernel.compare(ruleset=ruleset).lines]
