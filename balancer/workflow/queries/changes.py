"""A change as its page shows it."""

from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User

from balancer.domain.diff import DiffLine, FieldChange, diff_lines, diff_services
from balancer.domain.lifecycle import ChangeDeed, ChangeState, DeploymentState, deeds_from
from balancer.domain.problem import Problem
from balancer.models import Change, Deployment, Draft, Revision, Vote
from balancer.workflow.changes import is_involved, stale_reasons
from balancer.workflow.documents import Candidate, candidate_of
from balancer.workflow.permissions import APPLY, APPROVE, DRAFT, ROLL_BACK, may
from balancer.workflow.queries.values import (
    ShareRow,
    joined_rulesets,
    service_value,
    share_rows,
    shares_alone,
)
from balancer.workflow.revisions import live_revision, render_rulesets


@dataclass(frozen=True, slots=True)
class DraftView:
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
    valid: bool
    """Whether it is about what the change is now."""


@dataclass(frozen=True, slots=True)
class ChangeActions:
    """What this person can do with the change now; why not, where a button is expected and not there."""

    edit: bool
    submit: bool
    withdraw: bool
    rebase: bool
    approve: bool
    reject: bool
    apply: bool
    discard: bool
    why_not_approve: str
    """One sentence, empty where approving is possible or not the question."""


@dataclass(frozen=True, slots=True)
class ChangeView:
    change: Change
    drafts: tuple[DraftView, ...]
    ruleset: tuple[DiffLine, ...] | None
    """The whole ruleset: live against candidate while the change is open; once it is applied, what it found
    against what it made. Empty where nothing differs; None where invalid or given up."""
    problems: tuple[Problem, ...]
    """Errors and warnings of the configuration as it would be; only while the change is open."""
    stale: tuple[str, ...]
    """Sentences saying what has moved in the live configuration; only while the change is open."""
    votes: tuple[VoteView, ...]
    contributors: tuple[str, ...]
    deployment: Deployment | None
    """The latest attempt."""
    actions: ChangeActions


def view_change(*, change: Change, user: AbstractBaseUser | AnonymousUser) -> ChangeView:
    """Everything on the page of a change, for this person. Reads and compiles; heavy for big documents."""
    opened = ChangeState(change.state) not in {ChangeState.APPLIED, ChangeState.DISCARDED}
    candidate = candidate_of(change) if opened else None
    deployment = change.deployments.select_related("revision").order_by("-pk").first()
    drafts = Draft.objects.filter(change=change).select_related("updated_by").order_by("service_name")
    return ChangeView(
        change=change,
        drafts=tuple(_view_draft(draft) for draft in drafts),
        ruleset=_diff_rulesets(change=change, candidate=candidate, deployment=deployment),
        problems=candidate.problems if candidate else (),
        stale=stale_reasons(change) if opened else (),
        votes=_view_votes(change),
        contributors=tuple(sorted(user.get_username() for user in change.contributors.all())),
        deployment=deployment,
        actions=actions_for(change=change, user=user),
    )


def actions_for(*, change: Change, user: AbstractBaseUser | AnonymousUser) -> ChangeActions:
    """Which buttons to show. Workflow asks everything again when one is pressed."""
    deeds = deeds_from(ChangeState(change.state))
    rollback = change.kind == Change.Kind.ROLLBACK
    draft = may(actor=user, permission=ROLL_BACK if rollback else DRAFT)
    reviewer = may(actor=user, permission=APPROVE)
    involved = isinstance(user, User) and is_involved(actor=user, change=change)
    in_review = ChangeDeed.APPROVE in deeds
    why_not = ""
    if in_review and involved:
        why_not = "You wrote this change or a part of it; somebody else has to review it."
    elif in_review and not reviewer:
        why_not = "Your account has no role that may approve changes."
    return ChangeActions(
        edit=draft and not rollback and ChangeDeed.EDIT in deeds,
        submit=draft and ChangeDeed.SUBMIT in deeds and change.drafts.exists(),
        withdraw=draft and ChangeDeed.WITHDRAW in deeds,
        rebase=draft and ChangeDeed.EDIT in deeds and bool(stale_reasons(change)),
        approve=reviewer and not involved and in_review,
        reject=reviewer and not involved and ChangeDeed.REJECT in deeds,
        apply=may(actor=user, permission=APPLY) and ChangeDeed.APPLY in deeds,
        discard=draft and ChangeDeed.DISCARD in deeds,
        why_not_approve=why_not,
    )


def _diff_rulesets(
    *, change: Change, candidate: Candidate | None, deployment: Deployment | None
) -> tuple[DiffLine, ...] | None:
    if candidate is not None:
        if candidate.document is None:
            return None
        before, after = live_revision(change.cluster).rulesets, render_rulesets(candidate.document)
    elif change.state == ChangeState.APPLIED and deployment is not None:
        before, after = _revision_before(deployment).rulesets, deployment.revision.rulesets
    else:
        return None
    return diff_lines(joined_rulesets(before), joined_rulesets(after))


def _revision_before(deployment: Deployment) -> Revision:
    """What was live when a deployment began; a cluster's first found the empty revision 0."""
    earlier = Deployment.objects.filter(
        cluster=deployment.cluster_id, state=DeploymentState.SUCCEEDED, pk__lt=deployment.pk
    )
    latest = earlier.select_related("revision").order_by("-pk").first()
    if latest is not None:
        return latest.revision
    return Revision.objects.get(cluster=deployment.cluster_id, number=0)


def _view_draft(draft: Draft) -> DraftView:
    """Shares are those of the service on its own: a neighbour's draft does not move them."""
    before, after = service_value(draft.before), service_value(draft.after)
    return DraftView(
        service_name=draft.service_name,
        action=draft.action,
        fields=diff_services(before, after),
        shares=share_rows(before=shares_alone(before), after=shares_alone(after)),
        updated_by=draft.updated_by.get_username(),
        updated_at=draft.updated_at,
    )


def _view_votes(change: Change) -> tuple[VoteView, ...]:
    votes = Vote.objects.filter(change=change).select_related("user").order_by("pk")
    return tuple(
        VoteView(
            user=vote.user.get_username(),
            verdict=vote.verdict,
            reason=vote.reason,
            at=vote.at,
            valid=vote.digest == change.digest,
        )
        for vote in votes
    )
