"""A change as its page shows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import User

from balancer.domain.diff import FieldChange, diff_services
from balancer.domain.lifecycle import CHANGE_CLOSED, ChangeState
from balancer.domain.merge import Clash
from balancer.domain.policy import describe_policy
from balancer.domain.problem import Problem, errors
from balancer.models import Change, Deployment, Draft, Emergency, Vote
from balancer.workflow.approvals import (
    valid_approvals,
    why_not_counted,
)
from balancer.workflow.changes import approvals_required, stale_reasons
from balancer.workflow.documents import candidate_of, live_services
from balancer.workflow.queries.change_actions import ChangeActions, Person, actions_for
from balancer.workflow.queries.rollbacks import WayBack, view_way_back
from balancer.workflow.queries.rulesets import RulesetDiff, diff_change
from balancer.workflow.queries.windows import ScheduleView, view_schedule
from balancer.workflow.reviews import Shown, show_now
from balancer.workflow.submissions import merge_drafts
from balancer.workflow.traffic import ShareRow, service_value, share_rows


@dataclass(frozen=True, slots=True)
class DraftView:
    key: int
    service_name: str
    action: str
    """create, modify or delete."""
    fields: tuple[FieldChange, ...]
    shares: tuple[ShareRow, ...]
    updated_by: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class VoteView:
    user: str
    verdict: str
    reason: str
    at: datetime
    review: int | None
    """The key of what this person was shown."""
    why_not_counted: str
    """Why an approval does not count any more; empty where it does."""


@dataclass(frozen=True, slots=True)
class ApprovalsView:
    """How far the approval of a change is."""

    required: int
    given: int
    """Those that count."""
    policy: str
    """In a sentence."""


@dataclass(frozen=True, slots=True)
class Move:
    """A service that moved in the live configuration since it was drafted, seen from three sides."""

    service_name: str
    live: tuple[FieldChange, ...]
    """What became live since, against what the draft started from."""
    clashes: tuple[Clash, ...]
    """What both changed: a person has to decide."""
    result: tuple[FieldChange, ...]
    """What the draft would propose afterwards, against what is live now (where they clash: with its own)."""


@dataclass(frozen=True, slots=True)
class ChangeView:
    change: Change
    drafts: tuple[DraftView, ...]
    rulesets: tuple[RulesetDiff, ...] | None
    """For each group of nodes in the same case, see `diff_change`."""
    problems: tuple[Problem, ...]
    """Errors of the configuration as it would be; only while the change is open."""
    stale: tuple[str, ...]
    """Sentences saying what has moved in the live configuration; only while the change is open."""
    moves: tuple[Move, ...]
    """The same field by field; only while the change is open."""
    votes: tuple[VoteView, ...]
    approvals: ApprovalsView
    shown: Shown
    """Warnings and connections at stake as they are now; empty once the change is closed."""
    contributors: tuple[str, ...]
    invited: tuple[str, ...]
    deployment: Deployment | None
    """The latest attempt."""
    schedule: ScheduleView
    way_back: WayBack | None
    """Of a rollback that is still open."""
    emergency: Emergency | None
    """The latest that was declared for it."""
    actions: ChangeActions


def view_change(*, change: Change, user: Person) -> ChangeView:
    """Everything on the page of a change, for this person. Reads and compiles; heavy for big documents."""
    opened = ChangeState(change.state) not in CHANGE_CLOSED
    candidate = candidate_of(change) if opened else None
    deployment = change.deployments.select_related("revision").order_by("-pk").first()
    drafts = Draft.objects.filter(change=change).select_related("updated_by").order_by("service_name")
    stale = stale_reasons(change) if opened else ()
    return ChangeView(
        change=change,
        drafts=tuple(_view_draft(draft) for draft in drafts),
        rulesets=diff_change(change=change, candidate=candidate, deployment=deployment),
        problems=errors(candidate.problems) if candidate else (),
        stale=stale,
        moves=view_moves(change) if stale else (),
        votes=_view_votes(change),
        approvals=_view_approvals(change),
        shown=show_now(change) if opened else Shown(),
        contributors=_names(change.contributors.all()),
        invited=_names(change.invited.all()),
        deployment=deployment,
        schedule=view_schedule(change=change),
        way_back=view_way_back(change) if opened and candidate else None,
        emergency=change.emergencies.select_related("declared_by").first(),
        actions=actions_for(change=change, user=user),
    )


def view_moves(change: Change) -> tuple[Move, ...]:
    """The services that moved under the drafts of a change. A rollback is filled in anew and has none."""
    if change.rollback_of_id is not None:
        return ()
    live = live_services(change.cluster)
    merges = merge_drafts(change, live=live)
    moved = [d for d in change.drafts.order_by("service_name") if live.get(d.service_name) != d.before]
    return tuple(
        Move(
            service_name=draft.service_name,
            live=diff_services(service_value(draft.before), service_value(live.get(draft.service_name))),
            clashes=merges[draft.service_name].clashes,
            result=diff_services(
                service_value(live.get(draft.service_name)), service_value(merges[draft.service_name].data)
            ),
        )
        for draft in moved
    )


def _view_draft(draft: Draft) -> DraftView:
    """Shares are those of the service on its own: a neighbour's draft does not move them."""
    before, after = service_value(draft.before), service_value(draft.after)
    return DraftView(
        key=draft.pk,
        service_name=draft.service_name,
        action=draft.action,
        fields=diff_services(before, after),
        shares=share_rows(before=before, after=after),
        updated_by=draft.updated_by.get_username(),
        updated_at=draft.updated_at,
    )


def _view_votes(change: Change) -> tuple[VoteView, ...]:
    votes = Vote.objects.filter(change=change).select_related("user").order_by("pk")
    closed = ChangeState(change.state) in CHANGE_CLOSED
    return tuple(
        VoteView(
            user=vote.user.get_username(),
            verdict=vote.verdict,
            reason=vote.reason,
            at=vote.at,
            review=vote.review_id,
            why_not_counted="" if closed else why_not_counted(vote=vote, change=change) or "",
        )
        for vote in votes
    )


def _view_approvals(change: Change) -> ApprovalsView:
    return ApprovalsView(
        required=approvals_required(change),
        given=len(valid_approvals(change)) if change.digest else 0,
        policy=describe_policy(change.cluster.policy),
    )


def _names(people: Iterable[User]) -> tuple[str, ...]:
    return tuple(sorted(person.get_username() for person in people))
