"""A change as its page shows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User

from balancer.domain.diff import FieldChange, diff_services
from balancer.domain.lifecycle import CHANGE_CLOSED, CHANGE_REHEARSABLE, ChangeDeed, ChangeState, deeds_from
from balancer.domain.merge import Clash
from balancer.domain.policy import describe_policy
from balancer.domain.problem import Problem, errors
from balancer.models import Change, Deployment, Draft, Emergency, Vote
from balancer.workflow.approvals import (
    valid_approvals,
    why_needless,
    why_not_agreed,
    why_not_counted,
    why_not_eligible,
)
from balancer.workflow.changes import approvals_required, is_involved, stale_reasons, takes_part
from balancer.workflow.documents import candidate_of, live_services
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
from balancer.workflow.queries.rollbacks import WayBack, view_way_back
from balancer.workflow.queries.rulesets import RulesetDiff, diff_change
from balancer.workflow.queries.windows import ScheduleView, view_schedule
from balancer.workflow.rehearsed import wanted_nodes, why_not_rehearsed
from balancer.workflow.reviews import Shown, show_now
from balancer.workflow.schedules import find_window
from balancer.workflow.submissions import merge_drafts
from balancer.workflow.traffic import ShareRow, service_value, share_rows

Person = AbstractBaseUser | AnonymousUser


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
