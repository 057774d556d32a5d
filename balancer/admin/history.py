"""Audit events as people read them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q
from django.urls import NoReverseMatch, reverse

from balancer.models import AuditEvent, Change

SHOWN = 30

_TONES = {
    "approved": "ok",
    "applied": "ok",
    "succeeded": "ok",
    "in_sync": "ok",
    "rejected": "bad",
    "failed": "bad",
    "refused": "bad",
    "drifted": "bad",
    "submitted": "info",
    "started": "info",
}
_WORDS = {
    "change.opened": "opened the change",
    "change.described": "changed title and description",
    "change.rebased": "updated it to the live configuration",
    "change.submitted": "submitted it for review",
    "change.withdrawn": "withdrew it",
    "change.approved": "approved it",
    "change.rejected": "rejected it",
    "change.discarded": "discarded it",
    "change.applied": "applied everywhere",
    "change.failed": "not applied",
    "draft.saved": "saved a draft",
    "draft.discarded": "took out a draft",
    "rollback.opened": "opened the rollback",
    "revision.created": "made a revision",
    "deployment.started": "started to apply it",
    "deployment.succeeded": "deployment succeeded",
    "deployment.failed": "deployment failed",
    "deployment.cancelled": "cancelled the deployment",
    "job.queued": "job queued",
    "job.claimed": "job begun",
    "job.succeeded": "job succeeded",
    "job.failed": "job failed",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One event, with everything that a template shows of it."""

    event: AuditEvent
    words: str
    detail: str
    tone: str
    address: str
    """Of the thing that it is about; empty where that has no page."""

    @property
    def at(self) -> datetime:
        return self.event.at


def describe_event(event: AuditEvent) -> Line:
    return Line(
        event=event,
        words=words_of(event.action),
        detail=_detail(event),
        tone=tone_of(event.action),
        address=address_of(event),
    )


def describe_events(events: Iterable[AuditEvent]) -> tuple[Line, ...]:
    return tuple(describe_event(event) for event in events)


def events_about(*, change: Change) -> tuple[Line, ...]:
    """The latest events of a change and of its deployments, newest first."""
    deployments = [str(pk) for pk in change.deployments.values_list("pk", flat=True)]
    about = Q(object_type="change", object_id=str(change.pk))
    about |= Q(object_type="deployment", object_id__in=deployments)
    return describe_events(AuditEvent.objects.filter(about).order_by("-pk")[:SHOWN])


def words_of(action: str) -> str:
    if action.endswith(".refused") and action != "message.refused":
        return f"was refused: {_WORDS.get(action.removesuffix('.refused'), action.removesuffix('.refused'))}"
    return _WORDS.get(action, action.replace(".", " ").replace("_", " "))


def tone_of(action: str) -> str:
    return _TONES.get(action.rpartition(".")[2], "idle")


def address_of(event: AuditEvent) -> str:
    app = "auth" if event.object_type in {"user", "group"} else "balancer"
    if not event.object_id:
        return ""
    try:
        return reverse(f"admin:{app}_{event.object_type}_change", args=[event.object_id])
    except NoReverseMatch:
        return ""


def _detail(event: AuditEvent) -> str:
    facts = event.facts if isinstance(event.facts, dict) else {}
    for key in ("message", "error", "reason", "service", "title", "cause"):
        if facts.get(key):
            return str(facts[key])
    if "revision" in facts:
        return f"revision {facts['revision']}"
    return ""
