"""Why a button that a person may expect on a change is not there, in words."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from balancer.domain.lifecycle import ChangeDeed, ChangeState, deeds_from
from balancer.models import Change
from balancer.workflow.permissions import APPROVE, DRAFT, ROLL_BACK, may
from balancer.workflow.queries import ChangeView


def missing_buttons(*, view: ChangeView, user: AbstractBaseUser | AnonymousUser) -> tuple[str, ...]:
    """At most a few sentences: what happens next, and who can do it where this person cannot."""
    change, actions = view.change, view.actions
    deeds = deeds_from(ChangeState(change.state))
    hints = []
    if ChangeDeed.SUBMIT in deeds and not actions.submit:
        hints.append(_why_not_submit(view, user))
    if ChangeDeed.APPROVE in deeds and not actions.approve:
        hints.append(_why_not_approve(view, user))
    if ChangeDeed.APPLY in deeds and not actions.apply:
        hints.append("An operator or an approver applies it; your account has neither role.")
    if change.state == ChangeState.CHANGES_REQUESTED:
        hints.append(
            "Edit it and submit it again, or say in a comment why it should stay as it is."
            if actions.submit
            else "Its author edits it and submits it again."
        )
    if change.state == ChangeState.REJECTED:
        hints.append(
            "Withdraw it to make it a draft again."
            if actions.withdraw
            else "Its author can withdraw and edit it."
        )
    return tuple(hint for hint in hints if hint)


def _why_not_submit(view: ChangeView, user: AbstractBaseUser | AnonymousUser) -> str:
    change = view.change
    if not may(actor=user, permission=ROLL_BACK if change.kind == Change.Kind.ROLLBACK else DRAFT):
        return "It is still a draft; its author submits it when it is complete."
    if change.author_id != user.pk and user.get_username() not in view.invited:
        return f"It is the work of {change.author.get_username()}; who is invited to it can edit it too."
    return "There is nothing to submit yet: edit a service first."


def _why_not_approve(view: ChangeView, user: AbstractBaseUser | AnonymousUser) -> str:
    if not view.actions.why_not_approve:
        return ""
    if view.change.author_id == user.pk:
        return "You wrote this change, so someone else must approve it."
    if user.get_username() in view.contributors:
        return "You edited a draft in this change, so someone else must approve it."
    if not may(actor=user, permission=APPROVE):
        return "It waits for an approver; your account has no role that may approve changes."
    return view.actions.why_not_approve
