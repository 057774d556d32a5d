"""Audit events as people read them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q
from django.urls import NoReverseMatch, reverse

from balancer.models import AuditEvent, Change
from balancer.workflow.audit import Action

SHOWN = 100

_TONES = {
    "approved": "ok",
    "applied": "ok",
    "succeeded": "ok",
    "passed": "ok",
    "in_sync": "ok",
    "proven": "ok",
    "rejected": "bad",
    "sent_back": "bad",
    "reconsidered": "warn",
    "policy_changed": "warn",
    "people_changed": "warn",
    "commented": "info",
    "failed": "bad",
    "refused": "bad",
    "restored": "bad",
    "rolled_back": "bad",
    "unconfirmed": "warn",
    "confirmed": "ok",
    "drifted": "bad",
    "mended": "ok",
    "behind": "warn",
    "mending_held": "warn",
    "mending_asked": "info",
    "submitted": "info",
    "started": "info",
    "set": "warn",
    "lifted": "info",
    "signed": "ok",
    "scheduled": "info",
    "stopped": "bad",
    "missed": "bad",
    "skipped": "warn",
    "emergency.declared": "bad",
}
"""By the last word of an action, or by the whole of it."""
_TELLING = ("message", "words", "error", "reason", "service", "title", "cause", "why")
_WORDS = {
    "change.opened": ("opened the change", "open a change"),
    "change.described": ("changed title and description", "change title and description"),
    "change.rebased": ("updated it to what is live", "update it to what is live"),
    "change.submitted": ("submitted it for review", "submit it for review"),
    "change.withdrawn": ("withdrew it", "withdraw it"),
    "change.approved": ("approved it", "approve it"),
    "change.rejected": ("rejected it", "reject it"),
    "change.sent_back": ("asked for changes", "ask for changes"),
    "change.reconsidered": ("put it back into review", ""),
    "change.commented": ("commented", "comment"),
    "change.chosen": ("chose it to edit in", "choose it to edit in"),
    "change.invited": ("invited somebody", "invite somebody"),
    "change.uninvited": ("took back an invitation", "take back an invitation"),
    "change.policy_changed": ("changed the approval policy that it is judged by", ""),
    "change.people_changed": ("changed an account or a role that it depends on", ""),
    "change.discarded": ("discarded it", "discard it"),
    "change.applied": ("saw it applied everywhere", ""),
    "change.failed": ("saw it fail", ""),
    "draft.saved": ("saved a draft", "save a draft"),
    "draft.discarded": ("took out a draft", "take out a draft"),
    "override.set": ("operated a backend", "operate a backend"),
    "override.lifted": ("lifted an override", "lift an override"),
    "clearing.asked": ("asked to forget clients", "clear the persistence"),
    "clearing.done": ("forgot the clients of a service", ""),
    "clearing.failed": ("could not forget the clients of a service", ""),
    "late_review.opened": ("did something that a second person has to sign", ""),
    "late_review.signed": ("signed afterwards", "sign it afterwards"),
    "rehearsal.queued": ("asked for a rehearsal", "ask for a rehearsal"),
    "rehearsal.requeued": ("queued a rehearsal again", ""),
    "rehearsal.passed": ("saw its rehearsal pass", ""),
    "rehearsal.failed": ("saw its rehearsal fail", ""),
    "rehearsal.cancelled": ("gave up on a rehearsal", ""),
    "rollback.opened": ("prepared a rollback", "prepare a rollback"),
    "rollback.at_once": ("rolled back at once", "roll back at once"),
    "emergency.declared": ("applied it as an emergency", "apply it as an emergency"),
    "revision.created": ("made a revision", ""),
    "deployment.started": ("began to apply it", "apply it"),
    "deployment.succeeded": ("brought it to every node", ""),
    "deployment.failed": ("could not bring it to every node", ""),
    "deployment.cancelled": ("cancelled the deployment", "cancel the deployment"),
    "evidence.sealed": ("sealed the evidence file of a deployment", ""),
    "deployment.confirmed": ("confirmed it", "confirm it"),
    "deployment.rolled_back": ("saw a node go back by itself", ""),
    "drill.started": ("started a rollback drill", "start a rollback drill"),
    "drill.proven": ("proved that the node goes back by itself", ""),
    "drill.failed": ("saw a rollback drill fail", ""),
    "guard.restored": ("saw the guard of a node put the old rules back", ""),
    "job.unconfirmed": ("began to wait for a confirm", ""),
    "job.queued": ("queued a job", ""),
    "job.claimed": ("began a job", ""),
    "job.requeued": ("queued a job again", ""),
    "job.succeeded": ("finished a job", ""),
    "job.failed": ("failed at a job", ""),
    "job.cancelled": ("cancelled a job", ""),
    "job.skipped": ("left a node out", ""),
    "change.scheduled": ("scheduled it", "schedule it"),
    "window.cancelled": ("cancelled its window", "cancel its window"),
    "window.started": ("began its window", ""),
    "window.stopped": ("stopped at its window", ""),
    "window.missed": ("missed its window", ""),
    "freeze.declared": ("declared a freeze", "declare a freeze"),
    "freeze.lifted": ("lifted a freeze", "lift a freeze"),
    "node.created": ("added a node", "add a node"),
    "node.updated": ("edited a node", "edit a node"),
    "node.drifted": ("found other rules in a kernel", ""),
    "node.in_sync": ("found a kernel as it should be", ""),
    "node.mended": ("put its rules back", ""),
    "node.behind": ("found rules of others before ours", ""),
    "node.mending_held": ("waits before it puts its rules back once more", ""),
    "node.mending_asked": ("asked to put ours back", "have ours put back"),
    "cluster.created": ("added a cluster", "add a cluster"),
    "cluster.updated": ("edited a cluster", "edit a cluster"),
    "person.created": ("added an account", "add an account"),
    "person.updated": ("edited an account", ""),
    "password.proved": ("proved the password", "prove the password"),
    "role.created": ("added a role", ""),
    "role.updated": ("edited a role", ""),
    "role.deleted": ("deleted a role", ""),
    "policy.updated": ("changed the approval policy", "change the approval policy"),
    "operation.updated": ("changed the operation policy", "change the operation policy"),
    "person.deleted": ("deleted an account", ""),
    "worker.started": ("started a worker", ""),
    "worker.refused": ("refused to work", ""),
    "message.refused": ("refused a message", ""),
}
"""What was done, and what somebody was not allowed to do."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event, with everything that a template shows of it."""

    event: AuditEvent
    words: str
    detail: str
    tone: str
    address: str
    """Of the thing that it is about; empty where that has no page."""
    comment: str = ""
    """What somebody said, to be shown at length."""

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
        comment=_comment(event),
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
    plain = action.replace(".", " ").replace("_", " ")
    deed, _, refused = action.rpartition(".")
    if refused == "refused" and deed in _WORDS:
        return f"could not {_WORDS[deed][1] or plain}"
    return _WORDS.get(action, (plain, ""))[0]


def tone_of(action: str) -> str:
    return _TONES.get(action) or _TONES.get(action.rpartition(".")[2], "idle")


def address_of(event: AuditEvent) -> str:
    app = "auth" if event.object_type in {"user", "group"} else "balancer"
    if not event.object_id:
        return ""
    try:
        return reverse(f"admin:{app}_{event.object_type}_change", args=[event.object_id])
    except NoReverseMatch:
        return ""


def _comment(event: AuditEvent) -> str:
    return str(event.facts.get("text", "")) if event.action == Action.CHANGE_COMMENTED else ""


def _standing(facts: dict[str, Any]) -> str:
    """`bob: Editor → Editor, Approver`."""
    sides = [facts.get(side) for side in ("was", "now")]
    roles = [", ".join(side["roles"]) or "no role" for side in sides if isinstance(side, dict)]
    name = str(facts.get("person") or facts.get("role") or "")
    what = " → ".join(dict.fromkeys(roles)) or ", ".join(facts.get("gained") or facts.get("lost") or [])
    if facts.get("changed"):
        what += f" ({', '.join(map(str, facts['changed']))} changed)"
    return f"{name}: {what}" if name else what


def _detail(event: AuditEvent) -> str:
    facts = event.facts if isinstance(event.facts, dict) else {}
    keys = ("message", "error", "cause") if event.object_type == "job" else _TELLING
    if event.action == Action.GUARD_RESTORED:
        keys = ("text",)
    for key in keys:
        if facts.get(key):
            return str(facts[key])
    if event.action in {Action.CHANGE_PEOPLE_CHANGED, Action.PERSON_UPDATED, Action.PERSON_CREATED}:
        return _standing(facts)
    if "person" in facts:
        return str(facts["person"])
    if "revision" in facts:
        return f"revision {facts['revision']}"
    return ""
