"""One rehearsal by its node's worker: claim it, check what it is about, act in a lab, record what came of it.

As with jobs, no transaction is open meanwhile, and a worker that dies leaves a row which is found again.
Jobs go first: no rehearsal is begun while the node has one or its cluster is being deployed to, and one that
is under way gives way within seconds and is begun again afterwards.
"""

import logging
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
    RehearsalState,
)
from balancer.domain.types import Document
from balancer.lab.errors import GaveWay, LabError
from balancer.lab.rehearsal import Rehearsal as Result
from balancer.models import Change, Draft, Node, Rehearsal
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.render import render_ruleset
from balancer.workflow import audit
from balancer.workflow.changes import digest_change, lock_change
from balancer.workflow.claims import is_alive
from balancer.workflow.clock import Clock
from balancer.workflow.documents import candidate_document
from balancer.workflow.errors import Refused
from balancer.workflow.rehearsal_records import Outcome, claim, has_to_wait, record, requeue
from balancer.workflow.rehearsals import queue_missing
from balancer.workflow.rehearsed import is_required, kind_of, unrehearsed_changes
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
    rehearsal = claim(rehearsal_id=rehearsal_id, node_name=node_name, identity=identity, clock=clock)
    if rehearsal is None:
        return None
    try:
        task = _prepare(rehearsal)
    except Refused as refusal:
        outcome = Outcome(state=RehearsalState.CANCELLED, error=refusal.message)
    else:
        Rehearsal.objects.filter(pk=rehearsal.pk, claim=rehearsal.claim).update(ruleset_digest=task.digest)
        try:
            outcome = _act(
                rehearsal=rehearsal, task=task, rehearse=rehearse, meanwhile=meanwhile, clock=clock
            )
        except GaveWay as reason:
            requeue(rehearsal, why=str(reason), attempts=rehearsal.attempts - 1)
            return None
    return record(rehearsal=rehearsal, outcome=outcome, clock=clock)


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
            outcome = Outcome(state=RehearsalState.FAILED, error=error)
            record(rehearsal=rehearsal, outcome=outcome, clock=clock)
        else:
            requeue(rehearsal, why="Its worker died over it.", attempts=rehearsal.attempts)
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
) -> Outcome:
    def stay_seen() -> None:
        try:
            Node.objects.filter(pk=rehearsal.node_id).update(last_seen=clock())
            if has_to_wait(rehearsal.node):
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
        return Outcome(state=RehearsalState.FAILED, error=str(error))
    except Exception as error:
        # Whatever goes wrong in there, the row must not stay running.
        logger.exception("Rehearsal %s failed unexpectedly.", rehearsal.pk)
        message = f"Unexpected {type(error).__name__}: {error}"
        return Outcome(state=RehearsalState.FAILED, error=message)
    if result.passed and result.loaded.digest != task.digest:
        message = (
            f"What was loaded ({result.loaded.digest[:16]}) is not what was compiled ({task.digest[:16]})."
        )
        return Outcome(state=RehearsalState.FAILED, error=message)
    state = RehearsalState.PASSED if result.passed else RehearsalState.FAILED
    return Outcome(state=state, result=result)
