"""The signature afterwards: whose it is, what it needs, and that it neither lifts nor is lifted."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from balancer.models import AuditEvent, Emergency, LateReview, Override
from balancer.workflow.audit import writing
from balancer.workflow.effective import active_overrides
from balancer.workflow.late_reviews import (
    late_review_of,
    open_late_review,
    open_late_reviews,
    sign_late_review,
    why_not_sign,
)
from balancer.workflow.overrides import lift_override
from balancer.workflow.policies import record_person, standing_of
from tests.cast import Site, make_person
from tests.documents import service_data
from tests.workflow.deeds import edit, invited, open_by, operate, refusal_of


@pytest.fixture
def drained(site: Site) -> Override:
    site.deploy(service_data("web"))
    return operate(site)


def review_of(override: Override) -> LateReview:
    review = late_review_of(kind=LateReview.Kind.OVERRIDE, subject_id=override.pk)
    assert review is not None
    return review


def sign(person: User | None, review: LateReview, *, minutes_ago: float = 0, comment: str = "") -> LateReview:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    return sign_late_review(actor=person, review=review, password_at=at, comment=comment)


def test_an_override_demands_a_signature_and_gets_it_from_a_second_person(
    site: Site, drained: Override
) -> None:
    assert [(r.opened_by, r.reason) for r in open_late_reviews()] == [(site.operator, "disk is full")]

    signed = sign(site.approver, review_of(drained), comment=" Seen on the disk too. ")

    assert (signed.signed_by, signed.comment) == (site.approver, "Seen on the disk too.")
    assert not open_late_reviews().exists()
    event = AuditEvent.objects.get(action="late_review.signed")
    assert (event.actor_name, event.facts["done_by"]) == ("approver", "operator")


def test_a_signature_does_not_lift_and_lifting_does_not_sign(site: Site, drained: Override) -> None:
    sign(site.approver, review_of(drained))
    assert list(active_overrides(site.cluster)) == [drained]

    other = operate(site, 4)
    lift_override(actor=site.operator, override=other)

    assert list(open_late_reviews()) == [review_of(other)]
    sign(site.approver, review_of(other))


def test_who_did_it_never_signs_it_superuser_or_not(site: Site, drained: Override, superuser: User) -> None:
    assert refusal_of(lambda: sign(site.operator, review_of(drained))).code == "own-deed"
    other = operate(site, 4, by=superuser)
    assert refusal_of(lambda: sign(superuser, review_of(other))).code == "own-deed"
    sign(site.operator, review_of(other))
    with pytest.raises(IntegrityError), transaction.atomic():
        LateReview.objects.filter(pk=review_of(drained).pk).update(
            signed_by=site.operator, signed_at=timezone.now()
        )


@pytest.mark.parametrize("role", ["Viewer", "Editor"])
def test_a_signature_needs_the_right_to_approve_or_apply(drained: Override, role: str) -> None:
    person = make_person("somebody", role)

    assert refusal_of(lambda: sign(person, review_of(drained))).code == "forbidden"
    assert refusal_of(lambda: sign(None, review_of(drained))).code == "forbidden"
    assert why_not_sign(person=person, review=review_of(drained)) is not None


def test_another_operator_can_sign(drained: Override) -> None:
    other = make_person("olga", "Operator")

    assert why_not_sign(person=other, review=review_of(drained)) is None
    sign(other, review_of(drained))


def test_it_is_signed_once_and_with_a_password_just_typed(site: Site, drained: Override) -> None:
    review = review_of(drained)
    assert refusal_of(lambda: sign(site.approver, review, minutes_ago=6)).code == "password"
    assert (
        refusal_of(lambda: sign_late_review(actor=site.approver, review=review, password_at=None)).code
        == "password"
    )

    sign(site.approver, review, minutes_ago=4)

    assert refusal_of(lambda: sign(make_person("bob", "Approver"), review)).code == "state"


def test_who_did_it_does_not_make_the_one_who_signs(site: Site, administrator: User) -> None:
    site.deploy(service_data("web"))
    override = operate(site, by=administrator)
    was = standing_of(site.approver)
    with writing():
        record_person(actor=administrator, person=site.approver, was=was, changed=["password"])

    assert refusal_of(lambda: sign(site.approver, review_of(override))).code == "not-eligible"
    sign(site.operator, review_of(override))


def test_an_emergency_is_signed_by_nobody_who_wrote_any_of_it(site: Site, administrator: User) -> None:
    change = open_by(site.author, site)
    helper = invited(make_person("helper", "Editor", "Approver"), to=change)
    edit(helper, site, change)
    with writing():
        emergency = Emergency.objects.create(
            change=change, reason="fire", declared_by=site.operator, declared_at=timezone.now()
        )
        review = open_late_review(
            actor=site.operator,
            kind=LateReview.Kind.EMERGENCY,
            subject_id=emergency.pk,
            cluster=site.cluster,
            reason="fire",
        )

    assert refusal_of(lambda: sign(site.operator, review)).code == "own-deed"
    assert refusal_of(lambda: sign(helper, review)).code == "own-deed"
    sign(administrator, review)
