"""From draft to approved: submit, withdraw, update, approve, reject, discard."""

from django.utils import timezone

from balancer.domain.codec import document_to_data
from balancer.domain.lifecycle import ChangeDeed
from balancer.models import Change, Draft, Vote
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import (
    APPROVALS_REQUIRED,
    advance,
    digest_change,
    is_involved,
    lock_change,
    require_current,
    require_drafter,
)
from balancer.workflow.documents import candidate_document, drafts_of, live_services
from balancer.workflow.drafts import write_drafts
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import APPROVE, Actor, require
from balancer.workflow.revisions import document_of, live_revision


@deed(Action.CHANGE_SUBMITTED, target="change")
def submit_change(*, actor: Actor, change: Change) -> Change:
    """Hand a draft change in for review; its digest is fixed here. Needs DRAFT (ROLL_BACK for a rollback).

    Refused: "nothing" (no drafts), "stale" (live moved under them), "invalid" (not valid as a whole).
    """
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    if not Draft.objects.filter(change=change).exists():
        raise Refused(
            "nothing", f"{change} has no drafts, so there is nothing to submit. Edit a service first."
        )
    now = timezone.now()
    advance(
        change=change, deed=ChangeDeed.SUBMIT, submitted_at=now, base_revision=live_revision(change.cluster)
    )
    require_current(change)
    candidate_document(change)
    change.digest = digest_change(change)
    change.save(update_fields=["digest"])
    audit.record(actor=actor, action=Action.CHANGE_SUBMITTED, target=change, facts={"digest": change.digest})
    return change


@deed(Action.CHANGE_WITHDRAWN, target="change")
def withdraw_change(*, actor: Actor, change: Change) -> Change:
    """Back to draft, where it can be edited; votes are dropped. Needs DRAFT (ROLL_BACK for a rollback)."""
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    was = change.state
    advance(change=change, deed=ChangeDeed.WITHDRAW, digest="", submitted_at=None)
    dropped, _ = Vote.objects.filter(change=change).delete()
    facts = {"was": was, "votes_dropped": dropped}
    audit.record(actor=actor, action=Action.CHANGE_WITHDRAWN, target=change, facts=facts)
    return change


@deed(Action.CHANGE_REBASED, target="change")
def rebase_change(*, actor: Actor, change: Change) -> Change:
    """Let the drafts of a draft change start from what is live now; what they propose stays.

    A draft that is live already goes; a rollback is filled in again. Needs DRAFT (ROLL_BACK for a rollback).
    """
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    base = live_revision(change.cluster)
    advance(change=change, deed=ChangeDeed.EDIT, base_revision=base)
    live, wanted = live_services(change.cluster), drafts_of(change)
    if change.rollback_of is not None:
        target = {s["name"]: s for s in document_to_data(document_of(change.rollback_of))["services"]}
        wanted = {name: target.get(name) for name in {*live, *target, *wanted}}
    write_drafts(actor=actor, change=change, live=live, wanted=wanted)
    audit.record(actor=actor, action=Action.CHANGE_REBASED, target=change, facts={"base": base.number})
    return change


@deed(Action.CHANGE_APPROVED, target="change")
def approve_change(*, actor: Actor, change: Change, digest: str, reason: str = "") -> Change:
    """Say yes to exactly what `digest` stands for: the change's digest on the page that was read.

    Needs APPROVE. Refused: "own-change" for the author and everyone who ever edited a draft in it, superusers
    included; "conflict" where the page is out of date; "stale" where the live configuration moved.
    """
    change = lock_change(change)
    _require_reviewer(actor=actor, change=change, digest=digest)
    require_current(change)
    candidate_document(change)
    if digest_change(change) != change.digest:
        raise Refused("conflict", f"{change} is not what was submitted. Withdraw it and submit it again.")
    _vote(actor=actor, change=change, verdict=Vote.Verdict.APPROVE, reason=reason)
    approvals = Vote.objects.filter(change=change, verdict=Vote.Verdict.APPROVE, digest=change.digest).count()
    if approvals >= APPROVALS_REQUIRED:
        advance(change=change, deed=ChangeDeed.APPROVE)
    facts = {"digest": change.digest, "reason": reason}
    audit.record(actor=actor, action=Action.CHANGE_APPROVED, target=change, facts=facts)
    return change


@deed(Action.CHANGE_REJECTED, target="change")
def reject_change(*, actor: Actor, change: Change, digest: str, reason: str) -> Change:
    """Say no, with a reason, to what `digest` stands for. Needs APPROVE; not for one's own change."""
    change = lock_change(change)
    _require_reviewer(actor=actor, change=change, digest=digest)
    if not reason.strip():
        raise Refused("reason", "Say why you reject the change, so that its author knows what to do.")
    advance(change=change, deed=ChangeDeed.REJECT)
    _vote(actor=actor, change=change, verdict=Vote.Verdict.REJECT, reason=reason.strip())
    facts = {"digest": change.digest, "reason": reason.strip()}
    audit.record(actor=actor, action=Action.CHANGE_REJECTED, target=change, facts=facts)
    return change


@deed(Action.CHANGE_DISCARDED, target="change")
def discard_change(*, actor: Actor, change: Change) -> Change:
    """Close a draft change for good; its drafts stay readable. Needs DRAFT (ROLL_BACK for a rollback)."""
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    advance(change=change, deed=ChangeDeed.DISCARD, closed_at=timezone.now())
    audit.record(actor=actor, action=Action.CHANGE_DISCARDED, target=change)
    return change


def why_not_approved(change: Change) -> str | None:
    """Asks everything again that an approval rests on; a sentence where any of it does not hold.

    For apply and for the worker: they trust neither the state of the row nor each other.
    """
    if digest_change(change) != change.digest:
        return f"{change} is not what was submitted and approved."
    votes = list(Vote.objects.filter(change=change).select_related("user"))
    if any(vote.verdict == Vote.Verdict.REJECT for vote in votes):
        return f"{change} was rejected."
    valid = [v for v in votes if v.digest == change.digest and not is_involved(actor=v.user, change=change)]
    if len(valid) < APPROVALS_REQUIRED:
        return f"{change} has no valid approval by somebody who did not write it."
    return None


def _require_reviewer(*, actor: Actor, change: Change, digest: str) -> None:
    require(actor=actor, permission=APPROVE)
    if is_involved(actor=actor, change=change):
        raise Refused(
            "own-change",
            f"You wrote {change} or a part of it; somebody else has to review it, superuser or not.",
        )
    if not change.digest:
        raise Refused("state", f"{change} is {change.state}; it can be reviewed after it was submitted.")
    if digest != change.digest:
        raise Refused(
            "conflict", f"{change} was changed since you opened the page. Reload and read it again."
        )


def _vote(*, actor: Actor, change: Change, verdict: Vote.Verdict, reason: str) -> None:
    Vote.objects.update_or_create(
        change=change,
        user=actor,
        defaults={"verdict": verdict, "digest": change.digest, "reason": reason, "at": timezone.now()},
    )
