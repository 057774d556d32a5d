"""The one place where audit events are written, and the list of what they can be.

Events are a chain, so they are written one after the other. Every transaction that records any takes the lock
of the chain before it locks a row: two transactions can then never wait for each other in a ring.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from django.db import connection, models, transaction
from django.utils import timezone

from balancer.domain.chain import EVENT_FIELDS, GENESIS, Event, Head, hash_event
from balancer.domain.facts import plain_facts, plain_text
from balancer.domain.heads import head_line
from balancer.models import AuditEvent
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import Actor

P = ParamSpec("P")
R = TypeVar("R")

SYSTEM = "system"
REFUSED = ".refused"
CHAIN_LOCK = 0x6C6261646D696E
"""Of pg_advisory_xact_lock, in the whole database: "lbadmin" in ASCII."""

logger = logging.getLogger("lbadmin.audit")
"""Where heads go; the settings lead it to syslog."""
_source: ContextVar[str] = ContextVar("audit_source", default="")


class Action(StrEnum):
    """Everything that can be in the history. A refused deed of a person has `.refused` after it."""

    CLUSTER_CREATED = "cluster.created"
    CLUSTER_UPDATED = "cluster.updated"
    NODE_CREATED = "node.created"
    NODE_UPDATED = "node.updated"
    NODE_DRIFTED = "node.drifted"
    NODE_IN_SYNC = "node.in_sync"
    NODE_MENDED = "node.mended"
    NODE_BEHIND = "node.behind"
    MENDING_HELD = "node.mending_held"
    MENDING_ASKED = "node.mending_asked"
    PERSON_CREATED = "person.created"
    PASSWORD_PROVED = "password.proved"
    PERSON_UPDATED = "person.updated"
    PERSON_DELETED = "person.deleted"
    ROLE_CREATED = "role.created"
    ROLE_UPDATED = "role.updated"
    ROLE_DELETED = "role.deleted"
    POLICY_UPDATED = "policy.updated"
    OPERATION_UPDATED = "operation.updated"
    CHANGE_OPENED = "change.opened"
    CHANGE_CHOSEN = "change.chosen"
    CHANGE_DESCRIBED = "change.described"
    CHANGE_REBASED = "change.rebased"
    CHANGE_SUBMITTED = "change.submitted"
    CHANGE_WITHDRAWN = "change.withdrawn"
    CHANGE_APPROVED = "change.approved"
    CHANGE_REJECTED = "change.rejected"
    CHANGE_SENT_BACK = "change.sent_back"
    CHANGE_RECONSIDERED = "change.reconsidered"
    CHANGE_COMMENTED = "change.commented"
    CHANGE_INVITED = "change.invited"
    CHANGE_UNINVITED = "change.uninvited"
    CHANGE_PEOPLE_CHANGED = "change.people_changed"
    CHANGE_POLICY_CHANGED = "change.policy_changed"
    CHANGE_DISCARDED = "change.discarded"
    CHANGE_APPLIED = "change.applied"
    CHANGE_FAILED = "change.failed"
    DRAFT_SAVED = "draft.saved"
    DRAFT_DISCARDED = "draft.discarded"
    OVERRIDE_SET = "override.set"
    OVERRIDE_LIFTED = "override.lifted"
    CLEARING_ASKED = "clearing.asked"
    CLEARING_DONE = "clearing.done"
    CLEARING_FAILED = "clearing.failed"
    LATE_REVIEW_OPENED = "late_review.opened"
    LATE_REVIEW_SIGNED = "late_review.signed"
    REHEARSAL_QUEUED = "rehearsal.queued"
    REHEARSAL_REQUEUED = "rehearsal.requeued"
    REHEARSAL_PASSED = "rehearsal.passed"
    REHEARSAL_FAILED = "rehearsal.failed"
    REHEARSAL_CANCELLED = "rehearsal.cancelled"
    ROLLBACK_OPENED = "rollback.opened"
    ROLLED_BACK_AT_ONCE = "rollback.at_once"
    CHANGE_SCHEDULED = "change.scheduled"
    WINDOW_CANCELLED = "window.cancelled"
    WINDOW_STARTED = "window.started"
    WINDOW_STOPPED = "window.stopped"
    WINDOW_MISSED = "window.missed"
    FREEZE_DECLARED = "freeze.declared"
    FREEZE_LIFTED = "freeze.lifted"
    EMERGENCY_DECLARED = "emergency.declared"
    REVISION_CREATED = "revision.created"
    DEPLOYMENT_STARTED = "deployment.started"
    DEPLOYMENT_SUCCEEDED = "deployment.succeeded"
    DEPLOYMENT_FAILED = "deployment.failed"
    DEPLOYMENT_CANCELLED = "deployment.cancelled"
    EVIDENCE_SEALED = "evidence.sealed"
    DEPLOYMENT_CONFIRMED = "deployment.confirmed"
    DEPLOYMENT_ROLLED_BACK = "deployment.rolled_back"
    JOB_QUEUED = "job.queued"
    JOB_CLAIMED = "job.claimed"
    JOB_REQUEUED = "job.requeued"
    JOB_UNCONFIRMED = "job.unconfirmed"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_SKIPPED = "job.skipped"
    GUARD_RESTORED = "guard.restored"
    DRILL_STARTED = "drill.started"
    DRILL_PROVEN = "drill.proven"
    DRILL_FAILED = "drill.failed"
    WORKER_STARTED = "worker.started"
    WORKER_REFUSED = "worker.refused"
    MESSAGE_REFUSED = "message.refused"


@contextmanager
def writing() -> Iterator[None]:
    """A transaction that may record events: it takes the lock of the chain first."""
    with transaction.atomic():
        _lock_chain()
        yield


@contextmanager
def from_source(address: str) -> Iterator[None]:
    """Events that this thread records inside came from this address."""
    token = _source.set(address)
    try:
        yield
    finally:
        _source.reset(token)


def record(
    *,
    actor: Actor,
    action: Action | str,
    target: models.Model | None = None,
    facts: dict[str, Any] | None = None,
    at: datetime | None = None,
) -> AuditEvent:
    """Add an event in the transaction of the caller: both are kept, or neither.

    The caller's transaction is `writing()` (or a `deed`); without any this raises. Facts are kept as
    `domain.facts.plain_facts` spells them.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("An audit event is recorded inside audit.writing().")
    _lock_chain()
    last = AuditEvent.objects.order_by("-number").values_list("number", "hash").first() or (0, GENESIS)
    event = Event(
        number=last[0] + 1,
        at=at or timezone.now(),
        actor_id=None if actor is None else actor.pk,
        actor_name=_fit("actor_name", SYSTEM if actor is None else actor.get_username()),
        source=_fit("source", _source.get()),
        action=_fit("action", str(action)),
        object_type=_fit("object_type", "" if target is None else str(target._meta.model_name)),
        object_id=_fit("object_id", "" if target is None else str(target.pk)),
        object_label=_fit("object_label", "" if target is None else str(target)),
        facts=plain_facts(facts or {}),
        previous=last[1],
    )
    return _append(replace(event, hash=hash_event(event)))


def deed(action: Action, *, target: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a workflow function one transaction, and puts its refusals on record.

    `target` names the keyword argument that the deed is about. The function records its own success, since
    only it knows the facts; its refusal is recorded here, after the transaction has been rolled back.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                with writing():
                    return function(*args, **kwargs)
            except Refused as refusal:
                _record_refusal(action=action, refusal=refusal, target=target, kwargs=kwargs)
                raise

        return run

    return decorate


def _record_refusal(*, action: Action, refusal: Refused, target: str, kwargs: dict[str, Any]) -> None:
    with writing():
        record(
            actor=kwargs["actor"],
            action=f"{action}{REFUSED}",
            target=kwargs.get(target),
            facts={"code": refusal.code, "message": refusal.message},
        )


def _append(event: Event) -> AuditEvent:
    fields = {name: getattr(event, name) for name in EVENT_FIELDS}
    row = AuditEvent.objects.create(**fields)
    # Only what is committed may be said outside; robust, as the deed is done whatever becomes of the line.
    transaction.on_commit(partial(_say_head, event), robust=True)
    return row


def _say_head(event: Event) -> None:
    first = AuditEvent.objects.filter(number=1).values_list("hash", flat=True).first() or GENESIS
    head = Head(event.number, event.hash)
    logger.info("%s", head_line(first_hash=first, head=head, action=event.action, actor=event.actor_name))


def _lock_chain() -> None:
    """Held until the end of the transaction; taken again it is there already.

    On SQLite every transaction holds the only write lock from its first statement on.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CHAIN_LOCK])


def _fit(name: str, text: str) -> str:
    """Text that the column takes on both databases: an event is rather shortened than lost."""
    return plain_text(text)[: AuditEvent._meta.get_field(name).max_length]
