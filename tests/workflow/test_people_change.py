"""What becomes of changes under review when accounts and roles change."""

import pytest
from django.contrib.auth.models import Group, User

from balancer.models import AuditEvent, Vote
from balancer.models.roles import APPROVE
from balancer.workflow.clusters import create_person
from balancer.workflow.deployments import apply_change
from balancer.workflow.policies import permissions_of, record_person, record_role, standing_of
from balancer.workflow.submissions import submit_change
from tests.cast import PASSWORD, Site, make_person
from tests.documents import service_data
from tests.workflow.deeds import (
    actions_on,
    approve,
    edit,
    fresh,
    invited,
    notes_on,
    open_by,
    refusal_of,
    set_policy,
    submitted_by,
)

# When people change


def leave_role(person: User, *, by: User | None, role: str = "Approver") -> None:
    was = standing_of(person)
    person.groups.remove(Group.objects.get(name=role))
    record_person(actor=by, person=person, was=was, changed=["groups"])


def test_who_leaves_the_role_takes_the_approval_along_and_the_change_shows_it(
    site: Site, administrator: User
) -> None:
    change = site.approved(service_data("web"))

    leave_role(site.approver, by=administrator)

    assert fresh(change).state == "submitted"
    assert "may not approve" in notes_on(change)[0]
    assert actions_on(change)[-2:] == ["change.people_changed", "change.reconsidered"]
    event = AuditEvent.objects.get(action="change.people_changed")
    assert (event.actor_name, event.facts["person"]) == ("administrator", "approver")


def test_who_leaves_a_role_that_the_policy_names_does_not_count_any_more(site: Site) -> None:
    Group.objects.create(name="Security")
    member = make_person("member", "Approver", "Security")
    set_policy(site, groups=("Security",))
    change = approve(member, submitted_by(site.author, site))

    leave_role(member, by=None, role="Security")

    assert fresh(change).state == "submitted"
    assert "members of Security only" in notes_on(change)[0]


def test_who_comes_back_into_the_role_leaves_nobody_stuck(site: Site) -> None:
    change = site.approved(service_data("web"))
    leave_role(site.approver, by=None)
    was = standing_of(site.approver)
    site.approver.groups.add(Group.objects.get(name="Approver"))
    record_person(actor=None, person=site.approver, was=was)

    if fresh(change).state == "submitted":
        approve(User.objects.get(pk=site.approver.pk), change)

    assert fresh(change).state == "approved"


def test_an_account_that_is_switched_off_takes_its_approval_along(site: Site) -> None:
    change = site.approved(service_data("web"))
    was = standing_of(site.approver)
    User.objects.filter(pk=site.approver.pk).update(is_active=False)
    record_person(actor=None, person=site.approver, was=was)

    assert fresh(change).state == "submitted"


def test_even_unrecorded_the_loss_of_a_role_is_noticed_by_apply_and_by_the_worker(site: Site) -> None:
    waiting = site.approved(service_data("mail", port=25))
    deployment = site.start(service_data("web"))
    site.approver.groups.clear()

    job = deployment.jobs.get(node__name="lb1")
    site.run(job)

    job.refresh_from_db()
    assert job.state == "failed"
    assert refusal_of(lambda: apply_change(actor=site.operator, change=waiting)).code == "not-approved"


def test_a_change_that_has_nothing_to_do_with_the_person_is_not_told(
    site: Site, viewer: User, administrator: User
) -> None:
    change = submitted_by(site.author, site)
    was = standing_of(viewer)
    viewer.groups.clear()
    record_person(actor=administrator, person=viewer, was=was)

    assert "change.people_changed" not in actions_on(change)


# An author does not make the approver


@pytest.fixture
def boss(db: None) -> User:
    """An administrator who also edits."""
    return make_person("boss", "Administrator")


def make_account(boss: User, approver: User) -> User:
    return create_person(actor=boss, username="puppet", password=PASSWORD, roles=("Approver",))


def change_roles(boss: User, approver: User) -> User:
    was = standing_of(approver)
    approver.groups.add(Group.objects.get(name="Operator"))
    record_person(actor=boss, person=approver, was=was, changed=["groups"])
    return approver


def change_password(boss: User, approver: User) -> User:
    record_person(actor=boss, person=approver, was=standing_of(approver), changed=["password"])
    return approver


def change_role_itself(boss: User, approver: User) -> User:
    group = Group.objects.get(name="Approver")
    was = permissions_of(group)
    record_role(actor=boss, group=group, was=was - {APPROVE.partition(".")[2]}, now=was)
    return approver


MEDDLING = [make_account, change_roles, change_password, change_role_itself]


@pytest.mark.parametrize("meddle", MEDDLING)
def test_an_account_that_an_author_made_or_edited_cannot_approve_the_change(
    site: Site, boss: User, meddle: object
) -> None:
    change = submitted_by(boss, site)
    person = meddle(boss, site.approver)  # type: ignore[operator]

    refusal = refusal_of(lambda: approve(User.objects.get(pk=person.pk), change))

    assert (refusal.code, "by somebody who wrote" in refusal.message) == ("not-eligible", True)
    assert "change.people_changed" in actions_on(change)
    assert not Vote.objects.exists()


@pytest.mark.parametrize("meddle", MEDDLING[1:])
def test_an_approval_that_was_there_before_the_author_meddled_is_void(
    site: Site, boss: User, meddle: object
) -> None:
    change = approve(site.approver, submitted_by(boss, site))

    meddle(boss, site.approver)  # type: ignore[operator]

    assert fresh(change).state == "submitted"
    assert "by somebody who wrote" in notes_on(change)[0]


@pytest.mark.parametrize("meddle", MEDDLING)
def test_a_contributor_who_meddles_is_like_an_author(site: Site, boss: User, meddle: object) -> None:
    change = open_by(site.author, site)
    invited(boss, to=change)
    edit(boss, site, change)
    submit_change(actor=site.author, change=change)
    person = meddle(boss, site.approver)  # type: ignore[operator]

    assert refusal_of(lambda: approve(User.objects.get(pk=person.pk), change)).code == "not-eligible"


@pytest.mark.parametrize("meddle", MEDDLING)
def test_an_administrator_with_no_part_in_the_change_may_do_all_that(
    site: Site, boss: User, meddle: object
) -> None:
    change = submitted_by(site.author, site)
    person = meddle(boss, site.approver)  # type: ignore[operator]

    assert approve(User.objects.get(pk=person.pk), change).state == "approved"
