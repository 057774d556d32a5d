"""“Who let this through?”: from something that is live to the people behind it, out of the audit history."""

from dataclasses import dataclass
from datetime import datetime

from balancer.domain.lifecycle import DeploymentState
from balancer.models import AuditEvent, Change, Deployment, Draft, Review, Revision
from balancer.ruleset.owners import owners_of_rules
from balancer.workflow.audit import Action
from balancer.workflow.revisions import document_of


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that one person did, as the audit history has it."""

    person: str
    at: datetime
    event: AuditEvent


@dataclass(frozen=True, slots=True)
class ApprovalDeed:
    person: str
    at: datetime
    event: AuditEvent
    reason: str
    review: Review | None
    """What this person was shown."""


@dataclass(frozen=True, slots=True)
class Origin:
    """How the present content of a service, or a whole revision, came to be."""

    service: str
    """Empty where the whole revision is meant."""
    asked: Revision
    """Where the question began."""
    revision: Revision
    """The one that brought it."""
    change: Change | None
    """None for revision 0, which came with the cluster."""
    opened: Deed | None
    edited: tuple[Deed, ...]
    """Each person who edited a draft, with the latest time."""
    submitted: Deed | None
    approved: tuple[ApprovalDeed, ...]
    applied: Deed | None
    live_since: datetime | None
    policy: str
    """Why there is no approval, where the policy asked for none."""


def find_origin(*, revision: Revision, service: str = "") -> Origin:
    """The change that gave the service the content that it has in this revision; without a service, the
    change that the revision was made of."""
    found = _revision_that_brought(service, upto=revision) if service else revision
    change = found.change
    events = _events_of(change)
    deployment = Deployment.objects.filter(revision=found).order_by("-pk").first()
    started = _events_of_deployment(deployment, Action.DEPLOYMENT_STARTED)
    ended = _events_of_deployment(deployment, Action.DEPLOYMENT_SUCCEEDED)
    submitted = _latest(events, Action.CHANGE_SUBMITTED)
    return Origin(
        service=service,
        asked=revision,
        revision=found,
        change=change,
        opened=_latest(events, Action.CHANGE_OPENED, Action.ROLLBACK_OPENED),
        edited=_editors(events),
        submitted=submitted,
        approved=_approvals(events, submitted=submitted),
        applied=_deed(started[-1]) if started else None,
        live_since=ended[-1].at if ended else None,
        policy=_why_without_approval(events),
    )


def service_names(*, revision: Revision) -> tuple[str, ...]:
    """The services of a revision, sorted."""
    return tuple(service.name for service in document_of(revision).services)


def owners_in(revision: Revision) -> dict[str, tuple[tuple[str, str | None], ...]]:
    """Family -> the lines of the ruleset, each with the service that it is there for."""
    services = document_of(revision).services
    return {
        family: tuple(zip(text.splitlines(), owners_of_rules(text, services=services), strict=True))
        for family, text in revision.rulesets.items()
    }


def _revision_that_brought(service: str, *, upto: Revision) -> Revision:
    """The latest revision up to this one that went live and whose change touched the service."""
    touched = Draft.objects.filter(service_name=service, change__cluster=upto.cluster_id).values("change")
    went_live = Deployment.objects.filter(
        cluster=upto.cluster_id,
        state=DeploymentState.SUCCEEDED,
        revision__number__lte=upto.number,
        change__in=touched,
    )
    latest = (
        went_live.select_related("revision__change", "revision__cluster")
        .order_by("-revision__number")
        .first()
    )
    return latest.revision if latest is not None else upto


def _events_of(change: Change | None) -> list[AuditEvent]:
    if change is None:
        return []
    return list(AuditEvent.objects.filter(object_type="change", object_id=str(change.pk)).order_by("pk"))


def _events_of_deployment(deployment: Deployment | None, action: Action) -> list[AuditEvent]:
    if deployment is None:
        return []
    about = AuditEvent.objects.filter(object_type="deployment", object_id=str(deployment.pk), action=action)
    return list(about.order_by("pk"))


def _latest(events: list[AuditEvent], *actions: Action) -> Deed | None:
    found = [event for event in events if event.action in actions]
    return _deed(found[-1]) if found else None


def _editors(events: list[AuditEvent]) -> tuple[Deed, ...]:
    wrote = (Action.DRAFT_SAVED, Action.DRAFT_DISCARDED, Action.CHANGE_REBASED)
    latest = {event.actor_name: event for event in events if event.action in wrote}
    return tuple(_deed(latest[name]) for name in sorted(latest))


def _approvals(events: list[AuditEvent], *, submitted: Deed | None) -> tuple[ApprovalDeed, ...]:
    """Those of exactly what was submitted last; the latest of each person."""
    digest = submitted.event.facts.get("digest") if submitted else None
    reconsidered = {e.facts.get("digest") for e in events if e.action == Action.CHANGE_RECONSIDERED}
    wanted = {digest, *reconsidered} - {None}
    found = {
        event.actor_name: event
        for event in events
        if event.action == Action.CHANGE_APPROVED
        and event.actor_id is not None
        and event.facts.get("digest") in wanted
    }
    reviews = {
        review.digest: review
        for review in Review.objects.filter(digest__in=[e.facts.get("review", "") for e in found.values()])
    }
    return tuple(
        ApprovalDeed(
            person=name,
            at=event.at,
            event=event,
            reason=event.facts.get("reason", ""),
            review=reviews.get(event.facts.get("review", "")),
        )
        for name, event in sorted(found.items())
    )


def _why_without_approval(events: list[AuditEvent]) -> str:
    by_policy = [e for e in events if e.action == Action.CHANGE_APPROVED and e.actor_id is None]
    return str(by_policy[-1].facts.get("why", "")) if by_policy else ""


def _deed(event: AuditEvent) -> Deed:
    return Deed(person=event.actor_name, at=event.at, event=event)
