"""Late reviews: what was done without a review beforehand is signed by a second person afterwards.

A signature undoes nothing and allows nothing: it says that somebody else has looked at what was done.
"""

from datetime import datetime

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils import timezone

from balancer.models import Cluster, Emergency, LateReview
from balancer.workflow import audit
from balancer.workflow.approvals import require_password, was_edited_by
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import involved_people, lock_cluster
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import APPLY, APPROVE, Actor, may


def open_late_review(
    *, actor: User, kind: LateReview.Kind, subject_id: int, cluster: Cluster, reason: str
) -> LateReview:
    """Demand a signature for what `actor` does, in the transaction that does it.

    `subject_id` is the key of the override or of the emergency.
    """
    review = LateReview.objects.create(
        kind=kind,
        subject_id=subject_id,
        cluster=cluster,
        opened_by=actor,
        opened_at=timezone.now(),
        reason=reason,
    )
    facts = {"kind": str(kind), "subject": subject_id, "reason": reason}
    audit.record(actor=actor, action=Action.LATE_REVIEW_OPENED, target=review, facts=facts)
    return review


@deed(Action.LATE_REVIEW_SIGNED, target="review")
def sign_late_review(
    *, actor: Actor, review: LateReview, password_at: datetime | None, comment: str = ""
) -> LateReview:
    """Sign, as a second person, what somebody did without a review. Needs APPROVE or APPLY.

    `password_at` as for `approve_change`. Refused: "forbidden"; "own-deed" for who did it (for an emergency
    also for who wrote any of the change), superusers included; "not-eligible" for an account that one of them
    edited since; "state" where it is signed already; "password".
    """
    lock_cluster(review.cluster)
    review = LateReview.objects.get(pk=review.pk)
    if actor is None:
        raise Refused("forbidden", "A late review is signed by a person.")
    refusal = _why_not_sign(person=actor, review=review)
    if refusal is not None:
        raise refusal
    require_password(password_at)
    review.signed_by, review.signed_at, review.comment = actor, timezone.now(), comment.strip()
    review.save(update_fields=["signed_by", "signed_at", "comment"])
    facts = {"kind": review.kind, "subject": review.subject_id, "done_by": review.opened_by.get_username()}
    facts["comment"] = review.comment
    audit.record(actor=actor, action=Action.LATE_REVIEW_SIGNED, target=review, facts=facts)
    return review


def open_late_reviews() -> "QuerySet[LateReview]":
    """Those that nobody has signed yet, the oldest first."""
    found = LateReview.objects.filter(signed_at__isnull=True)
    return found.select_related("cluster", "opened_by").order_by("opened_at", "pk")


def late_review_of(*, kind: LateReview.Kind, subject_id: int) -> LateReview | None:
    return LateReview.objects.filter(kind=kind, subject_id=subject_id).first()


def why_not_sign(*, person: User, review: LateReview) -> str | None:
    """Why this person cannot sign it, in a sentence; None where they can."""
    refusal = _why_not_sign(person=person, review=review)
    return refusal.message if refusal else None


def _why_not_sign(*, person: User, review: LateReview) -> Refused | None:
    if review.signed_by is not None:
        return Refused("state", f"{review.signed_by.get_username()} has signed it already.")
    if not (may(actor=person, permission=APPROVE) or may(actor=person, permission=APPLY)):
        return Refused(
            "forbidden",
            "Your account may not sign late reviews. Ask an administrator for the role Approver or Operator.",
        )
    doers = _doers(review)
    if person.pk in doers:
        return Refused("own-deed", "You did this or a part of it, so a second person has to sign it.")
    if was_edited_by(person=person, people=doers, since=review.opened_at):
        return Refused(
            "not-eligible",
            f"The account or a role of {person.get_username()} was changed by somebody who did this, after"
            " it was done. Somebody else has to sign it.",
        )
    return None


def _doers(review: LateReview) -> set[int]:
    if review.kind == LateReview.Kind.EMERGENCY:
        emergency = Emergency.objects.select_related("change").get(pk=review.subject_id)
        return {review.opened_by_id, *involved_people(emergency.change)}
    return {review.opened_by_id}
