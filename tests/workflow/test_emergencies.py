"""An emergency: applied at once by somebody with a right of its own, signed by a second person afterwards."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.models import AuditEvent, Change, Deployment, Emergency, Job, LateReview
from balancer.workflow.deployments import apply_change, cancel_deployment
from balancer.workflow.emergencies import apply_in_emergency
from balancer.workflow.freezes import declare_freeze
from balancer.workflow.late_reviews import open_late_reviews, sign_late_review
from balancer.workflow.submissions import submit_change
from tests.cast import Site, make_person
from tests.documents import service_data
from tests.workflow.deeds import refusal_of

FIRE = "The front page is down."


def declare(person: User, change: Change, *, reason: str = FIRE) -> Deployment:
    return apply_in_emergency(actor=person, change=change, reason=reason, password_at=timezone.now())


def submitted(site: Site) -> Change:
    site.deploy(service_data("web"))
    return submit_change(actor=site.author, change=site.change(service_data("web", port=81)))


def test_it_is_applied_without_an_approval_and_goes_live(site: Site, administrator: User) -> None:
    revision = site.finish(declare(administrator, submitted(site)))

    assert site.cluster.live_revision == revision
    assert set(site.cluster.services.values_list("port", flat=True)) == {81}


def test_it_passes_a_freeze(site: Site, administrator: User) -> None:
    change = submitted(site)
    now = timezone.now()
    declare_freeze(
        actor=administrator, cluster=site.cluster, starts_at=now, ends_at=now + timedelta(hours=1), reason="x"
    )

    site.finish(declare(administrator, change))


def test_it_stays_on_the_list_until_a_second_person_signs_it(site: Site, administrator: User) -> None:
    change = submitted(site)
    site.finish(declare(administrator, change))

    (review,) = open_late_reviews()
    assert (review.kind, review.reason, review.opened_by) == ("emergency", FIRE, administrator)
    for person in (administrator, make_person("other", "Editor")):
        refusal_of(lambda p=person: sign_late_review(actor=p, review=review, password_at=timezone.now()))
    sign_late_review(actor=site.operator, review=review, password_at=timezone.now())
    assert not open_late_reviews().exists()


def test_ones_own_draft_is_handed_in_by_it(site: Site, administrator: User) -> None:
    site.deploy(service_data("web"))
    saved = site.save("mail", by=administrator, port=25)
    assert saved.change is not None

    site.finish(declare(administrator, saved.change))

    assert site.cluster.services.filter(name="mail").exists()
    assert not LateReview.objects.get().signed


def test_somebody_elses_draft_is_not(site: Site, administrator: User) -> None:
    change = site.change(service_data("web"))

    assert refusal_of(lambda: declare(administrator, change)).code == "not-invited"
    assert not Emergency.objects.exists()


@pytest.mark.parametrize("role", ["Viewer", "Editor", "Approver", "Operator"])
def test_it_takes_a_right_of_its_own(site: Site, role: str) -> None:
    change = submitted(site)

    assert refusal_of(lambda: declare(make_person("somebody", role), change)).code == "forbidden"
    assert AuditEvent.objects.filter(action="emergency.declared.refused").count() == 1


def test_it_takes_a_reason_and_the_password(site: Site, administrator: User) -> None:
    change = submitted(site)

    assert refusal_of(lambda: declare(administrator, change, reason="  ")).code == "reason"
    refusal = refusal_of(
        lambda: apply_in_emergency(actor=administrator, change=change, reason=FIRE, password_at=None)
    )
    assert refusal.code == "password"
    assert Change.objects.get(pk=change.pk).state == "submitted"


def test_what_it_does_is_on_record_with_its_reason(site: Site, administrator: User) -> None:
    declare(administrator, submitted(site))

    event = AuditEvent.objects.get(action="emergency.declared")
    assert (event.actor_name, event.facts["reason"]) == ("administrator", FIRE)


def test_one_emergency_answers_for_one_deployment(site: Site, administrator: User) -> None:
    change = submitted(site)
    cancel_deployment(actor=site.operator, deployment=declare(administrator, change))

    assert refusal_of(lambda: apply_change(actor=site.operator, change=change)).code == "not-approved"
    site.finish(declare(administrator, change, reason="It still is."))
    assert open_late_reviews().count() == 2


def test_the_worker_takes_no_emergency_for_another_content(site: Site, administrator: User) -> None:
    change = submitted(site)
    deployment = declare(administrator, change)
    Change.objects.filter(pk=change.pk).update(digest="0" * 64)

    assert site.run(Job.objects.get(deployment=deployment, node__name="lb1")) is JobState.FAILED
    assert (
        "is not what it was when the emergency was declared"
        in Job.objects.get(deployment=deployment, node__name="lb1").error
    )
