"""What a person can do with a change: which buttons its page shows."""

from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User

from balancer.domain.lifecycle import CHANGE_CLOSED, CHANGE_REHEARSABLE, ChangeDeed, ChangeState, deeds_from
from balancer.models import Change
from balancer.workflow.approvals import why_needless, why_not_agreed, why_not_eligible
from balancer.workflow.changes import is_involved, stale_reasons, takes_part
from balancer.workflow.editing import find_current_change
from balancer.workflow.permissions import (
    ADMINISTER,
    APPLY,
    APPROVE,
    DRAFT,
    EMERGENCY,
    ROLL_BACK,
    VIEW,
    may,
)
from balancer.workflow.rehearsed import wanted_nodes, why_not_rehearsed
from balancer.workflow.schedules import find_window

Person = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True, slots=True)
class ChangeActions:
    """What this person can do with the change now; why not, where a button is expected and not there."""

    edit: bool
    choose: bool
    """Edit it, but for that it has to be chosen first."""
    submit: bool
    withdraw: bool
    rebase: bool
    approve: bool
    reject: bool
    request_changes: bool
    apply: bool
    schedule: bool
    cancel_window: bool
    discard: bool
    emergency: bool
    rehearse: bool
    describe: bool
    invite: bool
    comment: bool
    why_not_approve: str
    """One sentence, empty where approving is possible or not the question."""


def actions_for(*, change: Change, user: Person) -> ChangeActions:
    """Which buttons to show. Workflow asks everything again when one is pressed."""
    deeds = deeds_from(ChangeState(change.state))
    rollback = change.kind == Change.Kind.ROLLBACK
    person = user if isinstance(user, User) else None
    part = person is not None and takes_part(actor=person, change=change)
    draft = part and may(actor=user, permission=ROLL_BACK if rollback else DRAFT)
    clears_up = draft or may(actor=user, permission=ADMINISTER)
    reviews = may(actor=user, permission=APPROVE) and not (
        person is not None and is_involved(actor=person, change=change)
    )
    window = find_window(change)
    edit = draft and not rollback and ChangeDeed.EDIT in deeds
    why_not = _why_not_approve(change=change, person=person, deeds=deeds)
    return ChangeActions(
        edit=edit,
        choose=edit and find_current_change(actor=person, cluster=change.cluster) != change,
        submit=draft and ChangeDeed.SUBMIT in deeds and change.drafts.exists(),
        withdraw=clears_up and ChangeDeed.WITHDRAW in deeds,
        rebase=draft and ChangeDeed.EDIT in deeds and bool(stale_reasons(change)),
        approve=why_not is None and ChangeDeed.APPROVE in deeds,
        reject=reviews and ChangeDeed.REJECT in deeds,
        request_changes=reviews and ChangeDeed.REQUEST_CHANGES in deeds,
        apply=may(actor=user, permission=APPLY) and ChangeDeed.APPLY in deeds,
        schedule=may(actor=user, permission=APPLY) and ChangeDeed.SCHEDULE in deeds and window is None,
        cancel_window=may(actor=user, permission=APPLY) and window is not None,
        discard=clears_up and ChangeDeed.DISCARD in deeds,
        rehearse=(draft or may(actor=user, permission=APPROVE)) and _can_rehearse(change),
        emergency=may(actor=user, permission=EMERGENCY) and _can_declare(change, draft=draft),
        describe=draft and ChangeDeed.EDIT in deeds,
        invite=draft and not rollback and person is not None and person.pk == change.author_id
        and ChangeState(change.state) not in CHANGE_CLOSED,
        comment=may(actor=user, permission=VIEW),
        why_not_approve=why_not or "",
    )  # fmt: skip


def _can_declare(change: Change, *, draft: bool) -> bool:
    """In an emergency one's own draft is handed in by the way."""
    if change.state == ChangeState.DRAFT:
        return draft and change.drafts.exists()
    return ChangeDeed.DECLARE_EMERGENCY in deeds_from(ChangeState(change.state))


def _can_rehearse(change: Change) -> bool:
    there = ChangeState(change.state) in CHANGE_REHEARSABLE and change.drafts.exists()
    return there and bool(wanted_nodes(change.cluster).nodes)


def _why_not_approve(*, change: Change, person: User | None, deeds: frozenset[ChangeDeed]) -> str | None:
    """None where the button belongs on the page; an empty sentence where nobody expects it."""
    if ChangeDeed.APPROVE not in deeds or person is None:
        return ""
    if change.state != ChangeState.SUBMITTED and why_not_agreed(change) is None:
        return ""
    needless = why_needless(person=person, change=change)
    if needless:
        return needless
    if is_involved(actor=person, change=change):
        return "You wrote this change or a part of it; somebody else has to review it."
    if not may(actor=person, permission=APPROVE):
        return "Your account has no role that may approve changes."
    if stale_reasons(change):
        return "What is live has moved under it; its author has to bring it up to date first."
    return why_not_eligible(person=person, change=change) or why_not_rehearsed(change)
