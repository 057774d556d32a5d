"""Writing down what becomes of a job. Only the holder of its claim does, and only while it has not ended."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from balancer.domain.lifecycle import JobState
from balancer.kernel.guard_state import Outcome as Restored
from balancer.models import Deployment, Job, Node, Revision
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.changes import lock_cluster
from balancer.workflow.clock import Clock
from balancer.workflow.drift import end_with_job
from balancer.workflow.effective import effective_of_job
from balancer.workflow.endings import finalize_deployment
from balancer.workflow.health_records import note_in_line, remember_health
from balancer.workflow.messages import record_refused_job
from balancer.workflow.node_health import forget_others
from balancer.workflow.node_weights import remember_carried
from balancer.workflow.queueing import queue_job
from balancer.workflow.revisions import live_revision

UNENDED = (JobState.QUEUED, JobState.RUNNING, JobState.UNCONFIRMED)


@dataclass(slots=True)
class Outcome:
    """What came of acting; `known` is false where the kernel may hold something else than before or after."""

    error: str = ""
    known: bool = True
    refused: bool = False
    partly: bool = False
    """Some families were written and others were not."""
    receipt: dict[str, Any] | None = None
    steps: list[str] = field(default_factory=list)
    carried: Revision | None = None
    """Beside an error: what the kernel was seen to carry all the same."""
    overrides: str = ""
    """Digest of the overrides that were laid over that."""
    weights: str = ""
    """Digest of the node's own weights in it; empty where a guard put back what is declared."""
    health: str = ""
    """Digest of the health in it; empty where a guard put back what is approved."""
    restored: Restored | None = None
    """The node's guard put back what was confirmed before."""
    proven: Restored | None = None
    """The same in a rollback drill that was proven by it."""
    confirmed_by: str = ""
    """Who made it final, for a deployment's job that succeeded: "checks" or a person's name."""


def record(*, job: Job, outcome: Outcome, clock: Clock) -> JobState | None:
    """Write down the end of a job, by the token of its claim, and end the deployment with the last one."""
    with audit.writing():
        lock_cluster(job.node.cluster)
        state = JobState.FAILED if outcome.error else JobState.SUCCEEDED
        put_back = outcome.restored or outcome.proven
        texts = [*outcome.steps, *([outcome.error] if outcome.error else [])]
        ended = Job.objects.filter(pk=job.pk, claim=job.claim, state__in=UNENDED).update(
            state=state,
            finished_at=clock(),
            error=outcome.error,
            receipt=outcome.receipt if outcome.receipt is not None else job.receipt,
            restored=asdict(put_back) if put_back else None,
            steps=[*job.steps, *as_steps(texts, at=clock())],
        )
        if ended != 1:
            message = "The claim on the job was lost; its outcome was not recorded."
            record_refused_job(node=job.node.name, code="claim-lost", message=message, job=job)
            return None
        job.receipt = outcome.receipt if outcome.receipt is not None else job.receipt
        if not outcome.error:
            _note_effective(job=job, outcome=outcome, now=clock())
        record_on_node(node=job.node, outcome=outcome, revision=job.revision, now=clock())
        if not outcome.error or outcome.restored is not None:
            end_with_job(job=job, now=clock(), by_guard=outcome.restored is not None)
        if job.reason == Job.Reason.DRILL:
            _record_drill(job=job, outcome=outcome, now=clock())
        else:
            _record_events(job=job, outcome=outcome, state=state)
        if job.deployment_id is not None:
            finalize_deployment(deployment=Deployment.objects.get(pk=job.deployment_id))
    return state


def record_on_node(*, node: Node, outcome: Outcome, revision: Revision | None, now: datetime) -> None:
    """What the node carries now, as far as it is known."""
    row = Node.objects.filter(pk=node.pk)
    if outcome.restored is not None:
        _record_restored(node=node, restored=outcome.restored, now=now)
    elif not outcome.error or outcome.carried is not None:
        carried = outcome.carried if outcome.error else revision
        row.update(
            carried_revision=carried,
            carried_overrides=outcome.overrides,
            carried_weights=outcome.weights,
            carried_health=outcome.health,
            in_sync=True,
            sync_detail="",
            checked_at=now,
        )
    elif not outcome.known:
        row.update(carried_revision=None, in_sync=None, sync_detail=outcome.error, checked_at=now)


def _note_effective(*, job: Job, outcome: Outcome, now: datetime) -> None:
    effective = effective_of_job(job)
    outcome.overrides = effective.digest
    if job.reason != Job.Reason.DRILL:
        outcome.weights, outcome.health = effective.weights_digest, effective.health_digest
        remember_carried(node=job.node, document=effective.healthy, now=now)
        remember_health(node=job.node, effective=effective, now=now)
        note_in_line(node=job.node, effective=effective, now=now)
        forget_others(node=job.node, services=effective.approved.services)


def note(job: Job, *texts: str, clock: Clock) -> None:
    """Steps for the progress view; only the holder of the claim writes them."""
    job.steps = [*job.steps, *as_steps(texts, at=clock())]
    Job.objects.filter(pk=job.pk, claim=job.claim, state=JobState.RUNNING).update(steps=job.steps)


def as_steps(texts: list[str] | tuple[str, ...], *, at: datetime) -> list[dict[str, str]]:
    return [{"at": at.isoformat(), "text": text} for text in texts]


def _record_restored(*, node: Node, restored: Restored, now: datetime) -> None:
    """The guard read its rules back when it had put them there."""
    carried = Revision.objects.filter(
        cluster=node.cluster_id, number=restored.restored, digest=restored.digest
    ).first()
    known = Node.objects.filter(pk=node.pk).values_list("guard", flat=True).get()
    Node.objects.filter(pk=node.pk).update(
        carried_revision=carried,
        carried_overrides=restored.overrides,
        carried_weights="",
        carried_health="",
        in_sync=True if carried else None,
        sync_detail="" if carried else restored.text,
        checked_at=now,
        guard={**known, "restored": {**asdict(restored), "seen_at": now.isoformat()}},
    )
    facts = {
        "node": node.name,
        "given_up": restored.given_up,
        "revision": restored.restored,
        "why": str(restored.why),
        "text": restored.text,
        "late": None if restored.late is None else str(restored.late),
        "at": restored.at,
        "token": restored.token,
        "job": restored.job,
    }
    audit.record(actor=None, action=Action.GUARD_RESTORED, target=node, facts=facts)


def _record_drill(*, job: Job, outcome: Outcome, now: datetime) -> None:
    """What was proven last stays known beside a failure, whose kernel is brought back at once."""
    facts: dict[str, Any] = {"node": job.node.name, "revision": job.revision.number, "words": outcome.error}
    row = Node.objects.filter(pk=job.node_id)
    if outcome.refused:
        record_refused_job(node=job.node.name, code="not-genuine", message=outcome.error, job=job)
    if outcome.proven is None:
        row.update(drill_failed_at=now, drill_error=outcome.error)
        audit.record(actor=None, action=Action.DRILL_FAILED, target=job.node, facts=facts)
        if not outcome.known:
            cause = "The rollback drill failed."
            queue_job(actor=None, node=job.node, revision=live_revision(job.node.cluster), cause=cause)
        return
    late, flavour = outcome.proven.late, flavour_of(job.receipt)
    row.update(drilled_at=now, drill_late=late, drill_flavour=flavour, drill_failed_at=None, drill_error="")
    facts |= {"words": outcome.steps[-1], "late": str(late), "flavour": flavour}
    audit.record(actor=None, action=Action.DRILL_PROVEN, target=job.node, facts=facts)


def flavour_of(receipt: dict[str, Any] | None) -> str:
    return next((str(one["flavour"]) for one in (receipt or {}).values()), "")


def _record_events(*, job: Job, outcome: Outcome, state: JobState) -> None:
    facts: dict[str, Any] = {"node": job.node.name, "revision": job.revision.number, "reason": job.reason}
    if outcome.refused:
        record_refused_job(node=job.node.name, code="not-genuine", message=outcome.error, job=job)
    if outcome.error:
        facts["error"] = outcome.error
    elif outcome.receipt is not None:
        facts["changed"] = any(receipt["changed"] for receipt in outcome.receipt.values())
    if outcome.confirmed_by:
        facts["confirmed_by"] = outcome.confirmed_by
    action = Action.JOB_SUCCEEDED if state is JobState.SUCCEEDED else Action.JOB_FAILED
    audit.record(actor=None, action=action, target=job, facts=facts)
