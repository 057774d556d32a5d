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
    drafting = may(actor=user, permission=ROLL_BACK if change.kind == Change.Kind.ROLLBACK else DRAFT)
    hints = []
    if ChangeDeed.SUBMIT in deeds and not actions.submit:
        if not drafting:
            hints.append("It is still a draft; its author submits it when it is complete.")
        elif not view.drafts:
            hints.append("There is nothing to submit yet: edit a service first.")
    if ChangeDeed.APPROVE in deeds and not actions.approve:
        hints.append(_why_not_approve(view, user))
    if ChangeDeed.APPLY in deeds and not actions.apply:
        hints.append("An operator or an approver applies it; your account has neither role.")
    if change.state == ChangeState.REJECTED:
        hints.append(
            "Withdraw it to make it a draft again."
            if actions.withdraw
            else "Its author can withdraw and edit it."
        )
    return tuple(hint for hint in hints if hint)


def _why_not_approve(view: ChangeView, user: AbstractBaseUser | AnonymousUser) -> str:
    change = view.change
    if change.author_id == user.pk:
        return "You wrote this change, so someone else must approve it."
    if user.get_username() in view.contributors:
        return "You edited a draft in this change, so someone else must approve it."
    if not may(actor=user, permission=APPROVE):
        return "It waits for an approver; your account has no role that may approve changes."
    return view.actions.why_not_approve
