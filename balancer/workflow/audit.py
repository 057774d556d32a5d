"""The one place where audit events are written, and the list of what they can be."""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.db import models, transaction
from django.utils import timezone

from balancer.models import AuditEvent
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import Actor

P = ParamSpec("P")
R = TypeVar("R")

SYSTEM = "system"
REFUSED = ".refused"
_LABEL_MAX = 250


class Action(StrEnum):
    """Everything that can be in the history. A refused deed of a person has `.refused` after it."""

    CLUSTER_CREATED = "cluster.created"
    CLUSTER_UPDATED = "cluster.updated"
    NODE_CREATED = "node.created"
    NODE_UPDATED = "node.updated"
    NODE_DRIFTED = "node.drifted"
    NODE_IN_SYNC = "node.in_sync"
    PERSON_CREATED = "person.created"
    PASSWORD_PROVED = "password.proved"
    PERSON_UPDATED = "person.updated"
    PERSON_DELETED = "person.deleted"
    ROLE_CREATED = "role.created"
    ROLE_UPDATED = "role.updated"
    ROLE_DELETED = "role.deleted"
    POLICY_UPDATED = "policy.updated"
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
    ROLLBACK_OPENED = "rollback.opened"
    REVISION_CREATED = "revision.created"
    DEPLOYMENT_STARTED = "deployment.started"
    DEPLOYMENT_SUCCEEDED = "deployment.succeeded"
    DEPLOYMENT_FAILED = "deployment.failed"
    DEPLOYMENT_CANCELLED = "deployment.cancelled"
    JOB_QUEUED = "job.queued"
    JOB_CLAIMED = "job.claimed"
    JOB_REQUEUED = "job.requeued"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    WORKER_STARTED = "worker.started"
    WORKER_REFUSED = "worker.refused"
    MESSAGE_REFUSED = "message.refused"


def record(
    *,
    actor: Actor,
    action: Action | str,
    target: models.Model | None = None,
    facts: dict[str, Any] | None = None,
    at: datetime | None = None,
) -> AuditEvent:
    """Add an event in the transaction of the caller: both are kept, or neither."""
    return AuditEvent.objects.create(
        at=at or timezone.now(),
        actor_id=None if actor is None else actor.pk,
        actor_name=SYSTEM if actor is None else actor.get_username(),
        action=str(action),
        object_type="" if target is None else str(target._meta.model_name),
        object_id="" if target is None else str(target.pk),
        object_label="" if target is None else str(target)[:_LABEL_MAX],
        facts=facts or {},
    )


def deed(action: Action, *, target: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a workflow function one transaction, and puts its refusals on record.

    `target` names the keyword argument that the deed is about. The function records its own success, since
    only it knows the facts; its refusal is recorded here, after the transaction has been rolled back.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                with transaction.atomic():
                    return function(*args, **kwargs)
            except Refused as refusal:
                _record_refusal(action=action, refusal=refusal, target=target, kwargs=kwargs)
                raise

        return run

    return decorate


def _record_refusal(*, action: Action, refusal: Refused, target: str, kwargs: dict[str, Any]) -> None:
    with transaction.atomic():
        record(
            actor=kwargs["actor"],
            action=f"{action}{REFUSED}",
            target=kwargs.get(target),
            facts={"code": refusal.code, "message": refusal.message},
        )
