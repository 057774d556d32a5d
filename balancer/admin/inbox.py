"""The changes that wait for a person: to finish as their author, to review, to apply."""

from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q, QuerySet

from balancer.admin.site import count_rows
from balancer.domain.lifecycle import CHANGE_APPLICABLE, CHANGE_IN_REVIEW, ChangeState
from balancer.models import Change, Draft
from balancer.workflow.permissions import APPLY, APPROVE, DRAFT, ROLL_BACK, may

SHOWN = 6
_OWN = frozenset({ChangeState.DRAFT, ChangeState.CHANGES_REQUESTED, ChangeState.REJECTED})


@dataclass(frozen=True, slots=True)
class Tray:
    title: str
    changes: tuple[Change, ...]


def trays_of(user: AbstractBaseUser | AnonymousUser) -> tuple[Tray, ...]:
    """Only those in which something lies."""
    trays = (
        Tray(
            title,
            tuple(
                found.select_related("author", "cluster").annotate(size=count_rows(Draft, "change"))[:SHOWN]
            ),
        )
        for title, found in _waiting(user)
    )
    return tuple(tray for tray in trays if tray.changes)


def count_waiting(user: AbstractBaseUser | AnonymousUser) -> int:
    """Changes that this person can bring forward, each counted once."""
    found = {pk for _, changes in _waiting(user) for pk in changes.values_list("pk", flat=True)}
    return len(found)


def _waiting(user: AbstractBaseUser | AnonymousUser) -> list[tuple[str, "QuerySet[Change]"]]:
    waiting = []
    changes = Change.objects.order_by("-pk")
    if may(actor=user, permission=APPROVE):
        foreign = changes.filter(state__in=CHANGE_IN_REVIEW).exclude(author=user).exclude(contributors=user)
        waiting.append(("To review", foreign))
    if may(actor=user, permission=APPLY):
        waiting.append(("To apply", changes.filter(state__in=CHANGE_APPLICABLE)))
    if may(actor=user, permission=DRAFT) or may(actor=user, permission=ROLL_BACK):
        own = changes.filter(Q(author=user) | Q(invited=user), state__in=_OWN).distinct()
        waiting.append(("Yours, to finish", own))
    return waiting
