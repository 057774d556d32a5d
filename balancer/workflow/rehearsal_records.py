"""Claiming a rehearsal, and writing down what became of it. Only the holder of its claim does the latter."""

import logging
import uuid
from dataclasses import dataclass

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, REHEARSAL_ENDED, RehearsalState
from balancer.lab.rehearsal import Rehearsal as Result
from balancer.models import Deployment, Job, Node, Rehearsal
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.changes import lock_change
from balancer.workflow.clock import Clock
from balancer.workflow.messages import record_refused_job
from balancer.workflow.rehearsals import approve_unasked, cancel_rehearsal
from balancer.workflow.rehearsed import describe_failure

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a rehearsal; `error` where it came to nothing."""

    state: RehearsalState
    result: Result | None = None
    error: str = ""


def claim(*, rehearsal_id: str, node_name: str, identity: str, clock: Clock) -> Rehearsal | None:
    """None where it is not to be done now; what this node may never do leaves an audit event."""
    with audit.writing():
        rehearsal = _find(rehearsal_id)
        code, why_not = _why_not_claimable(rehearsal, node_name=node_name)
        if rehearsal is None or code:
            record_refused_job(
                node=node_name, code=code, message=why_not, job=rehearsal, rehearsal=ascii(rehearsal_id)[1:-1]
            )
            return None
        if has_to_wait(rehearsal.node):
            return None
        claimed = Rehearsal.objects.filter(pk=rehearsal.pk, state=RehearsalState.QUEUED).update(
            state=RehearsalState.RUNNING,
            claim=uuid.uuid4(),
            claimed_by=identity,
            claimed_at=clock(),
            attempts=rehearsal.attempts + 1,
        )
        rehearsal.refresh_from_db()
    return rehearsal if claimed == 1 else None


def has_to_wait(node: Node) -> bool:
    """Jobs and deployments go first."""
    deploying = Deployment.objects.filter(cluster=node.cluster, state__in=DEPLOYMENT_ACTIVE)
    return deploying.exists() or Job.objects.filter(node=node, state__in=JOB_ACTIVE).exists()


def record(*, rehearsal: Rehearsal, outcome: Outcome, clock: Clock) -> RehearsalState | None:
    """Write down the end, by the token of the claim; None where it was cancelled or taken over meanwhile."""
    with audit.writing():
        change = lock_change(rehearsal.change)
        if outcome.state is RehearsalState.CANCELLED:
            cancelled = cancel_rehearsal(rehearsal=rehearsal, why=outcome.error)
            return outcome.state if cancelled else None
        fields: dict[str, object] = {
            "state": outcome.state,
            "finished_at": clock(),
            "error": outcome.error,
        }
        if outcome.result is not None:
            loaded = outcome.result.loaded
            fields |= {"result": outcome.result.to_data(), "flavour": loaded.flavour, "driver": loaded.driver}
        mine = Rehearsal.objects.filter(pk=rehearsal.pk, claim=rehearsal.claim, state=RehearsalState.RUNNING)
        if mine.update(**fields) != 1:
            logger.info("Rehearsal %s was given up meanwhile; its outcome was not recorded.", rehearsal.pk)
            return None
        rehearsal.refresh_from_db()
        _record_event(rehearsal)
        approve_unasked(change)
    return outcome.state


def requeue(rehearsal: Rehearsal, *, why: str, attempts: int) -> None:
    """Have it begun again, with so many attempts counted."""
    with audit.writing():
        mine = Rehearsal.objects.filter(pk=rehearsal.pk, claim=rehearsal.claim, state=RehearsalState.RUNNING)
        if mine.update(state=RehearsalState.QUEUED, claim=None, claimed_by="", attempts=attempts):
            facts = {"node": rehearsal.node.name, "attempts": rehearsal.attempts, "why": why}
            audit.record(actor=None, action=Action.REHEARSAL_REQUEUED, target=rehearsal.change, facts=facts)


def _find(rehearsal_id: str) -> Rehearsal | None:
    try:
        key = uuid.UUID(rehearsal_id)
    except (ValueError, AttributeError, TypeError):
        return None
    return Rehearsal.objects.select_related("node__cluster", "change").filter(pk=key).first()


def _why_not_claimable(rehearsal: Rehearsal | None, *, node_name: str) -> tuple[str, str]:
    """(code, sentence), both empty where it can be claimed, now or when nothing goes first."""
    if rehearsal is None:
        return "unknown-job", "There is no such rehearsal."
    if rehearsal.node.name != node_name:
        return "other-node", f"The rehearsal is for the node {rehearsal.node.name}."
    if rehearsal.state in REHEARSAL_ENDED:
        return "ended", f"The rehearsal has ended already ({rehearsal.state}); nothing was done."
    if rehearsal.state != RehearsalState.QUEUED:
        return "running", "The rehearsal is being carried out already."
    return "", ""


def _record_event(rehearsal: Rehearsal) -> None:
    facts = {
        "node": rehearsal.node.name,
        "on": f"{rehearsal.flavour} through {rehearsal.driver}",
        "digest": rehearsal.digest,
        "ruleset": rehearsal.ruleset_digest,
    }
    if rehearsal.state == RehearsalState.PASSED:
        assert rehearsal.result is not None
        facts["why"] = rehearsal.result["verdict"]
        audit.record(actor=None, action=Action.REHEARSAL_PASSED, target=rehearsal.change, facts=facts)
    else:
        facts["error"] = describe_failure(rehearsal)
        audit.record(actor=None, action=Action.REHEARSAL_FAILED, target=rehearsal.change, facts=facts)
