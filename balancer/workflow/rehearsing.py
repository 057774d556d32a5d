"""One rehearsal by its node's worker: claim it, check what it is about, act in a lab, record what came of it.

As with jobs, no transaction is open meanwhile, and a worker that dies leaves a row which is found again.
Jobs go first: no rehearsal is begun while the node has one or its cluster is being deployed to, and one that
is under way gives way within seconds and is begun again afterwards.
"""

import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from django.db import Error
from django.utils import timezone

from balancer.domain.codec import digest_text
from balancer.domain.digests import join_digests
from balancer.domain.lifecycle import (
    CHANGE_REHEARSABLE,
    DEPLOYMENT_ACTIVE,
    JOB_ACTIVE,
    REHEARSAL_ENDED,
    RehearsalState,
)
from balancer.domain.types import Document
from balancer.lab.errors import GaveWay, LabError
from balancer.lab.rehearsal import Rehearsal as Result
from balancer.models import Change, Deployment, Draft, Job, Node, Rehearsal
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.render import render_ruleset
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.changes import digest_change, lock_change
from balancer.workflow.claims import is_alive
from balancer.workflow.clock import Clock
from balancer.workflow.documents import candidate_document
from balancer.workflow.errors import Refused
from balancer.workflow.messages import record_refused_job
from balancer.workflow.rehearsals import approve_unasked, cancel_rehearsal, queue_missing
from balancer.workflow.rehearsed import describe_failure, is_required, kind_of, unrehearsed_changes
from balancer.workflow.revisions import compile_rulesets

ATTEMPTS_MAX = 3
"""Workers that may die over one rehearsal."""

logger = logging.getLogger(__name__)


class Rehearse(Protocol):
    """A node's own way to rehearse; LabError where it cannot be done here."""

    def __call__(
        self,
        *,
        document: Document,
        rulesets: Sequence[Ruleset],
        touched: Collection[str],
        meanwhile: Callable[[], None] | None = None,
    ) -> Result:
        """`meanwhile` is called every half second, in the caller's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    document: Document
    rulesets: tuple[Ruleset, ...]
    touched: frozenset[str]
    digest: str
    """Of the rulesets' texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    state: RehearsalState
    result: Result | None = None
    error: str = ""


def no_act() -> None:
    """Nothing to do meanwhile."""


def run_rehearsal(
    *,
    rehearsal_id: str,
    node_name: str,
    rehearse: Rehearse,
    identity: str,
    meanwhile: Callable[[], None] = no_act,
    clock: Clock = timezone.now,
) -> RehearsalState | None:
    """Carry out a queued rehearsal of this node; its state afterwards, None where it was not done now.

    What is unknown, another node's or over is refused and leaves an audit event. One of something that is no
    longer proposed is cancelled. `node_name` is the worker's own, never the message's. `meanwhile` is what
    the worker does in between: a rehearsal takes a minute, and health must not wait for it.
    """
    rehearsal = _claim(rehearsal_id=rehearsal_id, node_name=node_name, identity=identity, clock=clock)
    if rehearsal is None:
        return None
    try:
        task = _prepare(rehearsal)
    except Refused as refusal:
        outcome = _Outcome(state=RehearsalState.CANCELLED, error=refusal.message)
    else:
        Rehearsal.objects.filter(pk=rehearsal.pk, claim=rehearsal.claim).update(ruleset_digest=task.digest)
        try:
            outcome = _act(
                rehearsal=rehearsal, task=task, rehearse=rehearse, meanwhile=meanwhile, clock=clock
            )
        except GaveWay as reason:
            _requeue(rehearsal, why=str(reason), attempts=rehearsal.attempts - 1)
            return None
    return _record(rehearsal=rehearsal, outcome=outcome, clock=clock)


def rehearse_next(
    *,
    node: Node,
    rehearse: Rehearse,
    identity: str,
    queued_before: datetime,
    meanwhile: Callable[[], None] = no_act,
    clock: Clock = timezone.now,
) -> None:
    """What a tick does: ask for what is missing of this node's kind, and carry out the oldest that waits.

    One that was queued after `queued_before` has its message still on the way.
    """
    _ask_for_missing(node)
    waiting = Rehearsal.objects.filter(node=node, state=RehearsalState.QUEUED).order_by("queued_at").first()
    if waiting is not None and (waiting.attempts or waiting.queued_at <= queued_before):
        run_rehearsal(
            rehearsal_id=str(waiting.pk),
            node_name=node.name,
            rehearse=rehearse,
            identity=identity,
            meanwhile=meanwhile,
            clock=clock,
        )


def recover_rehearsals(*, node: Node, identity: str, clock: Clock = timezone.now) -> bool:
    """Queue again what a dead worker of this node left running; False where a living one is still at it."""
    running = Rehearsal.objects.filter(node=node, state=RehearsalState.RUNNING)
    for rehearsal in running.select_related("node", "change"):
        if rehearsal.claimed_by != identity and is_alive(rehearsal.claimed_by):
            return False
        if rehearsal.attempts >= ATTEMPTS_MAX:
            error = f"The worker died {rehearsal.attempts} times while it was at it."
            outcome = _Outcome(state=RehearsalState.FAILED, error=error)
            _record(rehearsal=rehearsal, outcome=outcome, clock=clock)
        else:
            _requeue(rehearsal, why="Its worker died over it.", attempts=rehearsal.attempts)
    return True


def _ask_for_missing(node: Node) -> None:
    """Where a change was submitted before this kind of node was known, or what it rests on has moved."""
    kind = kind_of(node)
    if kind is None or not node.enabled or not is_required(node.cluster):
        return
    for change in unrehearsed_changes(cluster=node.cluster, kind=kind):
        with audit.writing():
            locked = lock_change(change)
            if locked.state == change.state:
                queue_missing(actor=None, change=locked, cause="It was not rehearsed as it is now.")


def _claim(*, rehearsal_id: str, node_name: str, identity: str, clock: Clock) -> Rehearsal | None:
    with audit.writing():
        rehearsal = _find(rehearsal_id)
        code, why_not = _why_not_claimable(rehearsal, node_name=node_name)
        if rehearsal is None or code:
            record_refused_job(
                node=node_name, code=code, message=why_not, job=rehearsal, rehearsal=ascii(rehearsal_id)[1:-1]
            )
            return None
        if _has_to_wait(rehearsal.node):
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


def _has_to_wait(node: Node) -> bool:
    deploying = Deployment.objects.filter(cluster=node.cluster, state__in=DEPLOYMENT_ACTIVE)
    return deploying.exists() or Job.objects.filter(node=node, state__in=JOB_ACTIVE).exists()


def _prepare(rehearsal: Rehearsal) -> _Task:
    """What is to be tried; Refused where the change no longer proposes what this one was queued for."""
    change = Change.objects.get(pk=rehearsal.change_id)
    if change.state not in CHANGE_REHEARSABLE:
        raise Refused("state", f"{change} is {change.state} by now.")
    if digest_change(change) != rehearsal.digest:
        raise Refused("conflict", f"{change} proposes something else by now.")
    document = candidate_document(change)
    rulesets = tuple(compile_rulesets(document).values())
    return _Task(
        document=document,
        rulesets=rulesets,
        touched=frozenset(Draft.objects.filter(change=change).values_list("service_name", flat=True)),
        digest=join_digests([digest_text(render_ruleset(ruleset)) for ruleset in rulesets]),
    )


def _act(
    *, rehearsal: Rehearsal, task: _Task, rehearse: Rehearse, meanwhile: Callable[[], None], clock: Clock
) -> _Outcome:
    def stay_seen() -> None:
        try:
            Node.objects.filter(pk=rehearsal.node_id).update(last_seen=clock())
            if _has_to_wait(rehearsal.node):
                raise GaveWay("The node has a job to do, which goes first.")
            meanwhile()
        except Error as error:
            # A database that is away for a moment says nothing about the ruleset.
            logger.warning("Nobody was told that %s is there: %s", rehearsal.node, error)

    try:
        result = rehearse(
            document=task.document, rulesets=task.rulesets, touched=task.touched, meanwhile=stay_seen
        )
    except GaveWay:
        raise
    except LabError as error:
        return _Outcome(state=RehearsalState.FAILED, error=str(error))
    except Exception as error:
        # Whatever goes wrong in there, the row must not stay running.
        logger.exception("Rehearsal %s failed unexpectedly.", rehearsal.pk)
        message = f"Unexpected {type(error).__name__}: {error}"
        return _Outcome(state=RehearsalState.FAILED, error=message)
    if result.passed and result.loaded.digest != task.digest:
        message = (
            f"What was loaded ({result.loaded.digest[:16]}) is not what was compiled ({task.digest[:16]})."
        )
        return _Outcome(state=RehearsalState.FAILED, error=message)
    state = RehearsalState.PASSED if result.passed else RehearsalState.FAILED
    return _Outcome(state=state, result=result)


def _record(*, rehearsal: Rehearsal, outcome: _Outcome, clock: Clock) -> RehearsalState | None:
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


def _requeue(rehearsal: Rehearsal, *, why: str, attempts: int) -> None:
    with audit.writing():
        mine = Rehearsal.objects.filter(pk=rehearsal.pk, claim=rehearsal.claim, state=RehearsalState.RUNNING)
        if mine.update(state=RehearsalState.QUEUED, claim=None, claimed_by="", attempts=attempts):
            facts = {"node": rehearsal.node.name, "attempts": rehearsal.attempts, "why": why}
            audit.record(actor=None, action=Action.REHEARSAL_REQUEUED, target=rehearsal.change, facts=facts)
