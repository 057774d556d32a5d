"""The approval policy of a cluster, and what becomes of changes when it or the people change."""

from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth.models import Group, User
from django.utils import timezone

from balancer.models import AuditEvent, Change, Cluster, Vote
from balancer.workflow.approvals import why_not_approved
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import delete_service
from balancer.workflow.submissions import discard_change, submit_change
from tests.cast import Site, make_person
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


@pytest.fixture
def second(db: None) -> User:
    return make_person("second", "Approver")


# How many


def test_where_no_approval_is_needed_submitting_is_enough_and_the_worker_accepts_it(site: Site) -> None:
    set_policy(site, approvals=0, critical=0)

    change = submitted_by(site.author, site)

    assert (change.state, Vote.objects.count()) == ("approved", 0)
    event = AuditEvent.objects.get(action="change.approved")
    assert (event.actor_name, "no approval" in event.facts["why"]) == ("system", True)
    site.finish(apply_change(actor=site.operator, change=change))
    assert site.cluster.services.get().name == "web"


def test_without_needed_approvals_one_person_does_it_all(site: Site) -> None:
    alone = make_person("alone", "Editor", "Operator")
    set_policy(site, approvals=0)

    site.finish(apply_change(actor=alone, change=submitted_by(alone, site)))

    assert fresh(Change.objects.get()).state == "applied"


def test_of_two_approvals_one_is_not_enough(site: Site, second: User) -> None:
    set_policy(site, approvals=2)
    change = approve(site.approver, submitted_by(site.author, site))

    assert change.state == "submitted"
    assert "lacks one valid approval" in str(why_not_approved(change))
    assert refusal_of(lambda: apply_change(actor=site.operator, change=change)).code == "state"
    assert approve(second, change).state == "approved"


def test_the_same_person_twice_counts_once(site: Site) -> None:
    set_policy(site, approvals=2)
    change = approve(site.approver, submitted_by(site.author, site))

    refusal = refusal_of(lambda: approve(site.approver, change))

    assert (refusal.code, "somebody else's" in refusal.message) == ("state", True)
    assert (fresh(change).state, Vote.objects.count()) == ("submitted", 1)


def test_an_approval_of_what_is_approved_already_is_refused_and_leaves_no_vote(
    site: Site, second: User
) -> None:
    change = site.approved(service_data("web"))

    assert "all the approvals" in refusal_of(lambda: approve(second, change)).message
    assert Vote.objects.count() == 1


def test_a_row_that_says_approved_with_one_approval_too_few_is_not_applied(site: Site) -> None:
    set_policy(site, approvals=2)
    change = approve(site.approver, submitted_by(site.author, site))
    Change.objects.filter(pk=change.pk).update(state="approved")

    assert refusal_of(lambda: apply_change(actor=site.operator, change=change)).code == "not-approved"


# Critical services


@pytest.mark.parametrize("touch", ["field", "mark", "delete"])
def test_a_change_to_a_critical_service_needs_more_also_when_it_takes_the_mark_or_the_service_away(
    site: Site, second: User, touch: str
) -> None:
    set_policy(site, critical=1)
    site.deploy(service_data("web", critical=True))
    set_policy(site, critical=2)
    change = open_by(site.author, site)
    if touch == "delete":
        delete_service(actor=site.author, cluster=site.cluster, change=change, name="web")
    else:
        edit(site.author, site, change, port=81, critical=touch == "field")
    change = approve(site.approver, submit_change(actor=site.author, change=change))

    assert change.state == "submitted"
    assert approve(second, change).state == "approved"


def test_a_new_critical_service_needs_more_and_a_plain_one_beside_it_does_not(
    site: Site, second: User
) -> None:
    critical = approve(site.approver, submitted_by(site.author, site, "web", critical=True))
    plain = approve(site.approver, submitted_by(site.author, site, "mail", port=25))

    assert (critical.state, plain.state) == ("submitted", "approved")


# Groups


def test_only_members_of_the_named_roles_count_superusers_included(site: Site, superuser: User) -> None:
    Group.objects.create(name="Security")
    member = make_person("member", "Approver", "Security")
    set_policy(site, groups=("Security",))
    change = submitted_by(site.author, site)

    codes = [refusal_of(lambda p=p: approve(p, change)).code for p in (site.approver, superuser)]

    assert codes == ["not-eligible", "not-eligible"]
    assert approve(member, change).state == "approved"


def test_a_member_of_the_role_who_may_not_approve_does_not_count(site: Site) -> None:
    Group.objects.create(name="Security")
    set_policy(site, groups=("Security",))
    change = submitted_by(site.author, site)

    assert refusal_of(lambda: approve(make_person("member", "Security"), change)).code == "forbidden"


# Expiry


def test_an_approval_that_expired_is_not_applied_and_can_be_given_again(site: Site) -> None:
    set_policy(site, hours=2)
    change = site.approved(service_data("web"))
    with time_machine.travel(timezone.now() + timedelta(hours=2, seconds=1)):
        refusal = refusal_of(lambda: apply_change(actor=site.operator, change=change))
        notes = notes_on(change)
        approve(site.approver, change)
        site.see_nodes()
        site.finish(apply_change(actor=site.operator, change=change))

    assert refusal.code == "not-approved"
    assert "has expired" in notes[0]
    assert fresh(change).state == "applied"


def test_an_approval_counts_until_it_expires(site: Site) -> None:
    set_policy(site, hours=2)
    change = site.approved(service_data("web"))
    with time_machine.travel(timezone.now() + timedelta(hours=1, minutes=59)):
        site.see_nodes()
        site.finish(apply_change(actor=site.operator, change=change))

    assert fresh(change).state == "applied"


def test_the_worker_refuses_what_expired_on_the_way_to_it(site: Site) -> None:
    set_policy(site, hours=2)
    deployment = site.start(service_data("web"))
    job = deployment.jobs.get(node__name="lb1")
    with time_machine.travel(timezone.now() + timedelta(hours=3)):
        site.run(job)

    job.refresh_from_db()
    assert (job.state, "lacks one valid approval" in job.error) == ("failed", True)
    assert not site.kernels["lb1"].snapshot.tables.get("nat") or not site.own_rules("lb1")["nat"]
    assert AuditEvent.objects.filter(action="worker.refused").exists()


# When the policy changes


POLICIES = {
    "approvals": {"approvals": 2},
    "fewer": {"approvals": 0},
    "critical": {"critical": 3},
    "groups": {"groups": ("Approver",)},
    "expiry": {"hours": 5},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_any_change_of_the_policy_makes_approvals_void_and_sends_the_change_back_into_review(
    site: Site, policy: str
) -> None:
    change = site.approved(service_data("web"))

    set_policy(site, **POLICIES[policy])

    assert fresh(change).state == "submitted"
    assert fresh(change).digest != change.digest
    assert notes_on(change) == ["What was seen then is no longer what is proposed."]
    assert actions_on(change)[-2:] == ["change.policy_changed", "change.reconsidered"]
    assert refusal_of(lambda: apply_change(actor=site.operator, change=change)).code == "state"


def test_a_policy_that_is_set_to_what_it_was_changes_nothing(site: Site) -> None:
    change = site.approved(service_data("web"))

    set_policy(site)

    assert fresh(change).state == "approved"
    assert not AuditEvent.objects.filter(action="policy.updated").exists()


def test_who_approved_under_the_old_policy_approves_again_under_the_new_one(site: Site) -> None:
    change = site.approved(service_data("web"))
    set_policy(site, hours=5)

    approve(site.approver, change)
    site.finish(apply_change(actor=site.operator, change=change))

    assert fresh(change).state == "applied"


def test_a_policy_that_was_changed_and_changed_back_leaves_nobody_stuck(site: Site) -> None:
    change = site.approved(service_data("web"))
    set_policy(site, hours=5)
    set_policy(site)

    if fresh(change).state == "submitted":
        approve(site.approver, change)

    assert fresh(change).state == "approved"
    assert why_not_approved(fresh(change)) is None


def test_a_change_of_the_policy_is_on_the_record_of_every_open_change_and_of_no_closed_one(
    site: Site, administrator: User
) -> None:
    site.deploy(service_data("mail", port=25))
    applied = Change.objects.get()
    discarded = discard_change(actor=site.author, change=open_by(site.author, site))
    draft = open_by(site.author, site)
    waiting = submitted_by(site.author, site, "web")
    approved = site.approved(service_data("dns", port=53))

    set_policy(site, hours=8, by=administrator)

    told = AuditEvent.objects.filter(action="change.policy_changed")
    assert {event.object_id for event in told} == {str(c.pk) for c in (draft, waiting, approved)}
    assert {(e.actor_name, e.facts["now"]["expire_hours"]) for e in told} == {("administrator", 8)}
    assert {fresh(c).state for c in (applied, discarded)} == {"applied", "discarded"}


def test_what_expires_sooner_is_worth_less_at_once_on_the_worker_too(site: Site) -> None:
    """No policy is changed under a deployment that runs, so that its worker and its approvers agree."""
    site.start(service_data("web"))

    assert refusal_of(lambda: set_policy(site, hours=1)).code == "busy"


@pytest.mark.parametrize(
    "policy", [{"approvals": 10}, {"critical": 10}, {"hours": 0}, {"hours": 9000}, {"approvals": -1}]
)
def test_a_policy_that_makes_no_sense_is_refused_and_the_old_one_stays(
    site: Site, policy: dict[str, int]
) -> None:
    before = site.cluster.policy

    assert refusal_of(lambda: set_policy(site, **policy)).code == "invalid"
    assert Cluster.objects.get(pk=site.cluster.pk).policy == before


# By whom


@pytest.mark.parametrize("name", ["viewer", "author", "approver", "operator", "stranger"])
def test_only_an_administrator_changes_the_policy(
    site: Site, name: str, request: pytest.FixtureRequest
) -> None:
    person = request.getfixturevalue(name)

    assert refusal_of(lambda: set_policy(site, approvals=0, by=person)).code == "forbidden"
    assert Cluster.objects.get(pk=site.cluster.pk).policy.approvals == 1


@pytest.mark.parametrize("superuser", [False, True])
@pytest.mark.parametrize("part", ["author", "contributor"])
@pytest.mark.parametrize("state", ["draft", "submitted", "approved", "rejected"])
def test_nobody_who_wrote_an_open_change_eases_its_way(
    site: Site, part: str, superuser: bool, state: str
) -> None:
    boss = make_person("boss", "Administrator", superuser=superuser)
    change = open_by(boss if part == "author" else site.author, site)
    if part == "contributor":
        invited(boss, to=change)
    edit(boss, site, change)
    if state != "draft":
        submit_change(actor=change.author, change=change)
        Change.objects.filter(pk=change.pk).update(state=state)

    refusal = refusal_of(lambda: set_policy(site, approvals=0, by=boss))

    assert refusal.code == "own-change"
    assert Cluster.objects.get(pk=site.cluster.pk).policy.approvals == 1


def test_whoever_wrote_what_is_closed_may_change_the_policy(site: Site, administrator: User) -> None:
    discard_change(actor=administrator, change=open_by(administrator, site))

    assert set_policy(site, approvals=3, by=administrator).policy.approvals == 3
