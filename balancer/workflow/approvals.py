"""From submitted to approved: approve, reject, request changes; and whether an approval holds."""

from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db.models import Q
from django.utils import timezone

from balancer.domain.lifecycle import ChangeDeed, ChangeState
from balancer.domain.policy import ApprovalPolicy
from balancer.models import AuditEvent, Change, Vote
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import (
    advance,
    approvals_required,
    digest_change,
    involved_people,
    is_involved,
    lock_change,
    require_current,
    require_possible,
)
from balancer.workflow.documents import candidate_document
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import APPROVE, Actor, may, require
from balancer.workflow.rehearsed import require_rehearsed, why_not_rehearsed
from balancer.workflow.reviews import Shown, keep_review

PASSWORD_FRESH = timedelta(minutes=5)
"""For so long after the password was typed, no approval asks for it again."""


@deed(Action.CHANGE_APPROVED, target="change")
def approve_change(
    *,
    actor: Actor,
    change: Change,
    digest: str,
    password_at: datetime | None,
    reason: str = "",
    shown: Shown | None = None,
) -> Change:
    """Say yes to exactly what `digest` stands for: the change's digest on the page that was read.

    `password_at` is when this person last proved with the password that it is them. `shown` is what the page
    said beside the drafts (warnings, connections at stake); left out, it is put together now.

    Needs APPROVE. Refused: "own-change" for the author and everyone who ever edited a draft in it, superusers
    included; "not-eligible" by the policy of the cluster; "password" where that was too long ago; "conflict"
    where the page is out of date; "stale" where the live configuration moved; "not-rehearsed" where the
    policy asks for a rehearsal of exactly this and none has passed; "state" where it is not in review, or
    this approval would add nothing.
    """
    change = lock_change(change)
    actor = _require_reviewer(actor=actor, change=change, digest=digest)
    require_possible(change=change, deed=ChangeDeed.APPROVE)
    why_not = why_not_eligible(person=actor, change=change)
    if why_not:
        raise Refused("not-eligible", f"{why_not} Somebody else has to approve it.")
    require_password(password_at)
    needless = why_needless(person=actor, change=change)
    if needless:
        raise Refused("state", needless)
    require_current(change)
    candidate_document(change)
    if digest_change(change) != change.digest:
        raise Refused("conflict", f"{change} is not what was submitted. Withdraw it and submit it again.")
    require_rehearsed(change)
    _vote(actor=actor, change=change, verdict=Vote.Verdict.APPROVE, reason=reason, shown=shown)
    policy = change.cluster.policy
    if len(valid_approvals(change, policy=policy)) >= approvals_required(change, policy=policy):
        advance(change=change, deed=ChangeDeed.APPROVE)
    return change


@deed(Action.CHANGE_REJECTED, target="change")
def reject_change(*, actor: Actor, change: Change, digest: str, reason: str) -> Change:
    """Say no, with a reason, to what `digest` stands for. Needs APPROVE; not for one's own change."""
    change = lock_change(change)
    actor = _require_reviewer(actor=actor, change=change, digest=digest)
    _require_reason(reason, "Say why you reject the change, so that its author knows what to do.")
    advance(change=change, deed=ChangeDeed.REJECT)
    _vote(actor=actor, change=change, verdict=Vote.Verdict.REJECT, reason=reason)
    return change


@deed(Action.CHANGE_SENT_BACK, target="change")
def request_changes(*, actor: Actor, change: Change, digest: str, reason: str) -> Change:
    """Send it back to its author, saying what has to be different. Needs APPROVE; not for one's own."""
    change = lock_change(change)
    actor = _require_reviewer(actor=actor, change=change, digest=digest)
    _require_reason(reason, "Say what has to be different, so that its author knows what to do.")
    advance(change=change, deed=ChangeDeed.REQUEST_CHANGES)
    _vote(actor=actor, change=change, verdict=Vote.Verdict.REQUEST_CHANGES, reason=reason)
    return change


def why_not_approved(change: Change) -> str | None:
    """Asks everything again that an approval rests on, its rehearsal too; a sentence where any of it fails.

    For apply and for the worker: they trust neither the state of the row nor each other.
    """
    return why_not_agreed(change) or why_not_rehearsed(change)


def why_not_agreed(change: Change) -> str | None:
    """The part of it that is up to people: a sentence where the votes do not carry what is proposed."""
    policy = change.cluster.policy
    if digest_change(change, policy=policy) != change.digest:
        return f"{change} is not what was submitted and approved, or the policy has changed since."
    votes = list(Vote.objects.filter(change=change))
    if any(vote.verdict == Vote.Verdict.REJECT for vote in votes):
        return f"{change} was rejected."
    if any(vote.verdict == Vote.Verdict.REQUEST_CHANGES for vote in votes):
        return f"{change} was sent back with a request for changes."
    missing = approvals_required(change, policy=policy) - len(valid_approvals(change, policy=policy))
    if missing > 0:
        many = "one valid approval" if missing == 1 else f"{missing} valid approvals"
        return f"{change} lacks {many} by people who did not write it."
    return None


def why_needless(*, person: User, change: Change) -> str | None:
    """Why an approval by this person would change nothing, in a sentence; None where it would."""
    if change.state != ChangeState.SUBMITTED and why_not_agreed(change) is None:
        return f"{change} has all the approvals that it needs."
    policy = change.cluster.policy
    valid = valid_approvals(change, policy=policy)
    if len(valid) < approvals_required(change, policy=policy) and any(
        vote.user_id == person.pk for vote in valid
    ):
        return f"You have approved {change} already; it needs somebody else's approval too."
    return None


def valid_approvals(change: Change, *, policy: ApprovalPolicy | None = None) -> list[Vote]:
    """The approvals that count at this moment; `policy` where the caller has just read the cluster's."""
    approvals = Vote.objects.filter(change=change, verdict=Vote.Verdict.APPROVE).select_related("user")
    policy = policy or change.cluster.policy
    return [vote for vote in approvals if why_not_counted(vote=vote, change=change, policy=policy) is None]


def why_not_counted(*, vote: Vote, change: Change, policy: ApprovalPolicy | None = None) -> str | None:
    """Why an approval does not count (any more), in a sentence; None where it does."""
    if vote.digest != change.digest:
        return "What was seen then is no longer what is proposed."
    policy = policy or change.cluster.policy
    if policy.has_expired(at=vote.at, now=timezone.now()):
        return f"It was given on {vote.at:%-d %b, %H:%M} and has expired."
    return why_not_eligible(person=vote.user, change=change, groups=policy.groups)


def why_not_eligible(*, person: User, change: Change, groups: tuple[str, ...] | None = None) -> str | None:
    """Why this person's approval would not count for this change, in a sentence; None where it would.

    `groups` are those of the cluster's policy, where the caller has just read them.
    """
    people = involved_people(change)
    if person.pk in people:
        return f"{person.get_username()} wrote {change} or a part of it."
    if not may(actor=person, permission=APPROVE):
        return f"{person.get_username()} may not approve changes."
    groups = change.cluster.policy.groups if groups is None else groups
    if groups and not person.groups.filter(name__in=groups).exists():
        return f"In {change.cluster} approvals count from members of {' or '.join(groups)} only."
    if was_edited_by(person=person, people=people, since=change.created_at):
        return (
            f"The account or a role of {person.get_username()} was changed by somebody who wrote {change},"
            " after it was opened."
        )
    return None


def was_edited_by(*, person: User, people: set[int], since: datetime) -> bool:
    """Whether one of these people edited the account, its password, or what its roles may (ADR 0011).

    An author must not make the approver, and who did something not the one who signs it afterwards.
    """
    events = AuditEvent.objects.filter(at__gte=since, actor_id__in=people)
    groups = [str(pk) for pk in person.groups.values_list("pk", flat=True)]
    account = Q(object_type="user", object_id=str(person.pk), action__startswith="person.")
    roles = Q(object_type="group", object_id__in=groups, action__startswith="role.")
    return events.filter(account | roles).exclude(action__endswith=audit.REFUSED).exists()


def _require_reviewer(*, actor: Actor, change: Change, digest: str) -> User:
    require(actor=actor, permission=APPROVE)
    if actor is None or is_involved(actor=actor, change=change):
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
    return actor


def require_password(password_at: datetime | None) -> None:
    """Refused("password") where it was typed too long ago, or not at all."""
    if password_at is None or not timedelta(0) <= timezone.now() - password_at <= PASSWORD_FRESH:
        raise Refused("password", "Type your password once more, to show that it is really you.")


def _require_reason(reason: str, message: str) -> None:
    if not reason.strip():
        raise Refused("reason", message)


def _vote(
    *, actor: User, change: Change, verdict: Vote.Verdict, reason: str, shown: Shown | None = None
) -> None:
    """One verdict of one person, with what they were shown; an older one of theirs makes room."""
    reason = reason.strip()
    review = keep_review(change=change, shown=shown)
    values = {"verdict": verdict, "digest": change.digest, "reason": reason, "at": timezone.now()}
    Vote.objects.update_or_create(change=change, user=actor, defaults={**values, "review": review})
    action = {
        Vote.Verdict.APPROVE: Action.CHANGE_APPROVED,
        Vote.Verdict.REJECT: Action.CHANGE_REJECTED,
        Vote.Verdict.REQUEST_CHANGES: Action.CHANGE_SENT_BACK,
    }[verdict]
    facts = {"digest": change.digest, "reason": reason, "review": review.digest}
    audit.record(actor=actor, action=action, target=change, facts=facts)
