"""From draft to review and back: submit, withdraw, bring up to date, discard; and what undoes a review."""

from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from balancer.domain.lifecycle import CHANGE_OPEN, CHANGE_REVIEWED, ChangeDeed
from balancer.domain.merge import Merge, Side, merge_service
from balancer.models import Change, Draft
from balancer.workflow import audit
from balancer.workflow.approvals import why_not_agreed
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import (
    advance,
    begin_edit,
    digest_change,
    drop_votes,
    lock_change,
    require_current,
    require_drafter,
    rollback_target,
)
from balancer.workflow.documents import Data, candidate_document, drafts_of, live_services
from balancer.workflow.drafts import rebase_drafts
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import Actor
from balancer.workflow.rehearsals import approve_unasked, cancel_rehearsals, queue_missing
from balancer.workflow.revisions import live_revision

Choices = Mapping[str, Mapping[str, Side]]
"""Service -> path of a clash -> whose value."""


@deed(Action.CHANGE_SUBMITTED, target="change")
def submit_change(*, actor: Actor, change: Change) -> Change:
    """Hand a draft change in for review; its digest is fixed here. Needs DRAFT (ROLL_BACK for a rollback).

    By that its rehearsals are queued, where the policy asks for them. Where it asks for no approval, the
    change is approved as soon as they have passed, or at once. Refused: "nothing" (no drafts), "stale"
    (live moved under them), "invalid" (not valid as a whole), "not-invited" (somebody else's change).
    """
    change = hand_in(actor=actor, change=change)
    queue_missing(actor=actor, change=change, cause="It was submitted.")
    approve_unasked(change)
    return change


def hand_in(*, actor: Actor, change: Change) -> Change:
    """The same up to the digest, inside the transaction of a deed that goes on by itself."""
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    if not Draft.objects.filter(change=change).exists():
        raise Refused(
            "nothing", f"{change} has no drafts, so there is nothing to submit. Edit a service first."
        )
    drop_votes(change)
    now, base = timezone.now(), live_revision(change.cluster)
    advance(change=change, deed=ChangeDeed.SUBMIT, submitted_at=now, base_revision=base)
    require_current(change)
    candidate_document(change)
    change.digest = digest_change(change)
    change.save(update_fields=["digest"])
    if actor is not None:
        change.contributors.add(actor)
    facts = {"digest": change.digest, "policy": change.cluster.policy.to_data()}
    audit.record(actor=actor, action=Action.CHANGE_SUBMITTED, target=change, facts=facts)
    return change


@deed(Action.CHANGE_WITHDRAWN, target="change")
def withdraw_change(*, actor: Actor, change: Change) -> Change:
    """Back to draft, where it can be edited; votes are dropped. For its authors and for administrators.

    A rollback at once becomes one that is reviewed like any other.
    """
    change = lock_change(change)
    require_drafter(actor=actor, change=change, or_administrator=True)
    was = change.state
    advance(change=change, deed=ChangeDeed.WITHDRAW, digest="", submitted_at=None, at_once=False)
    cancel_rehearsals(change=change, why="The change was withdrawn.", actor=actor)
    facts = {"was": was, "votes_dropped": drop_votes(change)}
    audit.record(actor=actor, action=Action.CHANGE_WITHDRAWN, target=change, facts=facts)
    return change


@deed(Action.CHANGE_DISCARDED, target="change")
def discard_change(*, actor: Actor, change: Change) -> Change:
    """Close a draft change for good; its drafts stay readable. For its authors and for administrators."""
    change = lock_change(change)
    require_drafter(actor=actor, change=change, or_administrator=True)
    advance(change=change, deed=ChangeDeed.DISCARD, closed_at=timezone.now())
    cancel_rehearsals(change=change, why="The change was discarded.", actor=actor)
    audit.record(actor=actor, action=Action.CHANGE_DISCARDED, target=change)
    return change


@deed(Action.CHANGE_REBASED, target="change")
def rebase_change(*, actor: Actor, change: Change, choices: Choices | None = None) -> Change:
    """Let the drafts of a draft change start from what is live now, with what others made live merged in.

    What only one side changed is taken from it. Refused("conflict") names the fields that both changed and
    that `choices` does not decide; nothing is written then. A draft that is live already goes; a rollback is
    filled in again. Needs DRAFT (ROLL_BACK for a rollback).
    """
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    base = live_revision(change.cluster)
    begin_edit(change, base_revision=base)
    cancel_rehearsals(change=change, why="The change was edited.", actor=actor)
    live = live_services(change.cluster)
    if change.rollback_of is not None:
        target = rollback_target(revision=change.rollback_of, services=change.rollback_services, live=live)
        wanted = {name: target.get(name, live.get(name)) for name in {*target, *drafts_of(change)}}
    else:
        wanted = _decided(merge_drafts(change, live=live, choices=choices))
    rebase_drafts(actor=actor, change=change, live=live, wanted=wanted)
    facts = {"base": base.number, "choices": _choices_data(choices)}
    audit.record(actor=actor, action=Action.CHANGE_REBASED, target=change, facts=facts)
    return change


def merge_drafts(
    change: Change, *, live: dict[str, Data] | None = None, choices: Choices | None = None
) -> dict[str, Merge]:
    """Each draft brought together with what became live since it was made."""
    live = live_services(change.cluster) if live is None else live
    return {
        draft.service_name: merge_service(
            base=draft.before,
            theirs=live.get(draft.service_name),
            mine=draft.after,
            choices=(choices or {}).get(draft.service_name),
        )
        for draft in Draft.objects.filter(change=change).order_by("service_name")
    }


def reconsider(*, change: Change, actor: Actor, action: Action, facts: dict[str, Any]) -> None:
    """Put on the record of an open change that what its approvals rest on has changed, and act on it.

    A change in review gets the digest of what is to be reviewed now; one that was approved goes back into
    review where its approvals no longer suffice. Not a deed of its own: part of the deed that changed it.
    """
    change = lock_change(change)
    if change.state not in CHANGE_OPEN:
        return
    audit.record(actor=actor, action=action, target=change, facts=facts)
    if change.state not in CHANGE_REVIEWED:
        return
    digest = digest_change(change)
    if digest == change.digest and why_not_agreed(change) is None:
        return
    moved = digest != change.digest
    advance(change=change, deed=ChangeDeed.RECONSIDER, digest=digest)
    if moved:
        cancel_rehearsals(change=change, why="What it is judged by has changed.")
        queue_missing(actor=None, change=change, cause="What it is judged by has changed.")
    facts = {"why": "What an approval rests on has changed; it has to be reviewed again.", "digest": digest}
    audit.record(actor=None, action=Action.CHANGE_RECONSIDERED, target=change, facts=facts)


def _decided(merges: Mapping[str, Merge]) -> dict[str, Data | None]:
    open_ones = [
        f"{name}, {clash.path or 'the whole service'}" for name, m in merges.items() for clash in m.clashes
    ]
    if open_ones:
        raise Refused(
            "conflict",
            f"You and others changed the same: {'; '.join(open_ones)}. Say for each whose value it shall be.",
        )
    return {name: merge.data for name, merge in merges.items()}


def _choices_data(choices: Choices | None) -> dict[str, dict[str, str]]:
    return {name: {path: str(side) for path, side in of.items()} for name, of in (choices or {}).items()}
