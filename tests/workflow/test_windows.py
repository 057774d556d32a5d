"""Approved now, applied then: a window starts once, and stops with its reason where anything has moved."""

from datetime import datetime, timedelta

import pytest
import time_machine
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import RehearsalState
from balancer.models import AuditEvent, Change, Deployment, Rehearsal, Window
from balancer.workflow import windows
from balancer.workflow.deployments import apply_change
from balancer.workflow.errors import Invalid
from balancer.workflow.freezes import declare_freeze
from balancer.workflow.policies import update_policy
from balancer.workflow.queries.windows import stopped_windows, view_freezes, view_schedule
from balancer.workflow.schedules import cancel_window, schedule_change
from balancer.workflow.submissions import withdraw_change
from balancer.workflow.windows import run_due_windows
from tests.cast import Site, let_rehearsals_be
from tests.documents import service_data
from tests.workflow.deeds import approve, edit, go_live, refusal_of

HOUR = timedelta(hours=1)


@pytest.fixture
def change(site: Site) -> Change:
    """Approved, with a service live already."""
    site.deploy(service_data("web"))
    return site.approved(service_data("web", scheduler="random"))


def schedule(site: Site, change: Change, *, after: timedelta = HOUR, length: timedelta = HOUR) -> Window:
    start = timezone.now() + after
    return schedule_change(actor=site.operator, change=change, starts_at=start, ends_at=start + length)


def at(moment: datetime) -> time_machine.travel:
    return time_machine.travel(moment, tick=False)


def begin(site: Site, window: Window, *, late: timedelta = timedelta(seconds=5)) -> Window:
    """The first tick of a worker after the window's start, both nodes being there."""
    with at(window.starts_at + late):
        site.see_nodes()
        run_due_windows(cluster=site.cluster)
    window.refresh_from_db()
    return window


def told(change: Change, action: str) -> list[str]:
    found = AuditEvent.objects.filter(action=action, object_type="change", object_id=str(change.pk))
    return [event.facts["why"] for event in found]


# It starts


def test_an_approved_change_is_applied_in_its_window_as_the_person_who_scheduled_it(
    site: Site, change: Change
) -> None:
    window = schedule(site, change)
    with at(window.starts_at - timedelta(seconds=1)):
        run_due_windows(cluster=site.cluster)
    assert Deployment.objects.count() == 1

    begin(site, window)

    deployment = Deployment.objects.latest("pk")
    assert (window.state, window.deployment) == ("started", deployment)
    assert (deployment.change, deployment.requested_by) == (change, site.operator)
    site.finish(deployment)
    change.refresh_from_db()
    assert change.state == "applied"


def test_of_several_workers_one_starts_it(site: Site, change: Change) -> None:
    window = schedule(site, change)

    for _ in range(3):
        begin(site, window)

    assert Deployment.objects.filter(change=change).count() == 1
    assert AuditEvent.objects.filter(action="window.started").count() == 1


def test_it_waits_within_its_window_for_another_deployment_and_for_a_node_that_is_down(
    site: Site, change: Change
) -> None:
    window = schedule(site, change)
    other = site.start(service_data("web"), service_data("mail", port=25))
    begin(site, window)
    assert (window.state, window.why) == ("waiting", "Revision 2 is being applied.")

    Deployment.objects.filter(pk=other.pk).update(state="cancelled")
    other.jobs.update(state="cancelled")
    with at(window.starts_at + timedelta(minutes=2)):
        site.see_nodes("lb1")
        run_due_windows(cluster=site.cluster)
        window.refresh_from_db()
        assert window.why.startswith("lb2 is down")
    assert AuditEvent.objects.filter(action="deployment.started.refused").count() == 0

    assert begin(site, window, late=timedelta(minutes=3)).state == "started"


def test_a_window_that_was_over_before_it_could_start_is_missed_and_says_why(
    site: Site, change: Change
) -> None:
    window = schedule(site, change)

    begin(site, window, late=HOUR)

    assert window.state == "missed"
    assert window.why.startswith(
        "Its window was over before it could begin: no worker of the cluster was up."
    )
    assert told(change, "window.missed") == [window.why]
    assert view_schedule(change=change).stopped == window
    change.refresh_from_db()
    assert change.state == "approved"


# It stops, each time with its reason


def stops(site: Site, window: Window, code: str, *words: str) -> None:
    deployments = Deployment.objects.count()
    begin(site, window)
    assert (window.state, window.code) == ("stopped", code)
    for word in words:
        assert word in window.why
    assert told(window.change, "window.stopped") == [window.why]
    assert [window] == list(stopped_windows(cluster=site.cluster))
    assert Deployment.objects.count() == deployments
    site.see_nodes()
    begin(site, window)
    assert Deployment.objects.count() == deployments, "what has stopped stays stopped"


def test_where_the_services_of_the_change_have_moved_it_stops(site: Site, change: Change) -> None:
    window = schedule(site, change)
    go_live(site, site.change(service_data("web", port=81)))

    stops(site, window, "stale", "The service web was modified since.")


def test_where_anything_else_has_become_live_it_stops_as_it_compiles_to_other_rules(
    site: Site, change: Change
) -> None:
    window = schedule(site, change)
    go_live(site, site.change(service_data("mail", port=25)))

    stops(site, window, "differs", "Revision 2 became live since", "schedule it again")


def test_where_the_compiler_makes_other_rules_of_it_it_stops(
    site: Site, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = schedule(site, change)
    monkeypatch.setattr(windows, "digest_rulesets", lambda document: "0" * 64)

    stops(site, window, "differs", "another version of lbadmin")


def test_where_the_approval_has_expired_it_stops_and_it_was_said_beforehand(site: Site) -> None:
    update_policy(actor=None, cluster=site.cluster, approvals=1, critical_approvals=1, expire_hours=2)
    change = site.approved(service_data("web"))
    window = schedule(site, change, after=3 * HOUR)
    foreseen = view_schedule(change=change).window
    assert foreseen is not None
    assert "will have expired when it begins" in foreseen.warnings[0]

    stops(site, window, "not-approved", "The approval by approver: It was given", "has expired")


def test_an_approval_that_is_given_again_lets_it_start(site: Site) -> None:
    update_policy(actor=None, cluster=site.cluster, approvals=1, critical_approvals=1, expire_hours=2)
    change = site.approved(service_data("web"))
    window = schedule(site, change, after=3 * HOUR)
    with at(window.starts_at - timedelta(minutes=1)):
        approve(site.approver, change)

    assert begin(site, window).state == "started"


def test_in_a_freeze_it_stops(site: Site, change: Change, administrator: User) -> None:
    window = schedule(site, change)
    declare_freeze(
        actor=administrator,
        cluster=None,
        starts_at=window.starts_at - HOUR / 2,
        ends_at=window.starts_at + HOUR,
        reason="Sale",
    )
    assert view_freezes(cluster=site.cluster)[0].windows == 1

    stops(site, window, "frozen", "All clusters are frozen until", "Sale")


@pytest.mark.parametrize("anew", [True, False])
def test_where_the_change_was_withdrawn_it_stops_even_if_something_else_was_approved_in_it(
    site: Site, change: Change, anew: bool
) -> None:
    window = schedule(site, change)
    withdraw_change(actor=site.author, change=change)
    if anew:
        edit(site.author, site, Change.objects.get(pk=change.pk), port=81)
        site.approve(Change.objects.get(pk=change.pk))

    state = "approved" if anew else "draft"
    stops(site, window, "state", f"is {state} and no longer what was scheduled.", "schedule it again")


def test_where_whoever_scheduled_it_may_not_apply_any_more_it_stops(site: Site, change: Change) -> None:
    window = schedule(site, change)
    site.operator.groups.clear()

    stops(site, window, "forbidden", "operator, who scheduled it, may not apply changes any more")


# Rehearsed again


def rehearsals(change: Change) -> list[str]:
    return list(Rehearsal.objects.filter(change=change).order_by("queued_at").values_list("state", flat=True))


@pytest.fixture
def rehearsed(site: Site, change: Change) -> Change:
    """Approved under a policy that has just begun to ask for rehearsals, with one kind of node."""
    site.cluster.nodes.update(facts={"flavour": "nft", "driver": "iptables-restore"})
    let_rehearsals_be(site.cluster, rehearsal="required")
    return change


@pytest.mark.parametrize(("state", "then"), [("passed", "started"), ("failed", "stopped")])
def test_it_is_rehearsed_again_at_the_windows_beginning_and_that_decides(
    site: Site, rehearsed: Change, state: str, then: str
) -> None:
    window = schedule_while_off(site, rehearsed)
    begin(site, window)
    assert (window.state, rehearsals(rehearsed)) == ("rehearsing", ["queued"])
    assert begin(site, window, late=timedelta(seconds=10)).state == "rehearsing"
    assert rehearsals(rehearsed) == ["queued"], "it asks once"

    Rehearsal.objects.update(state=RehearsalState(state), finished_at=window.starts_at, error="5 lost.")

    begin(site, window, late=timedelta(seconds=15))
    assert window.state == then
    if then == "stopped":
        assert window.code == "rehearsal"
        assert window.why.startswith("Rehearsed again, it did not pass: ")


def schedule_while_off(site: Site, change: Change) -> Window:
    let_rehearsals_be(site.cluster)
    window = schedule(site, change)
    let_rehearsals_be(site.cluster, rehearsal="required")
    return window


# Asking for a window


@pytest.mark.parametrize(
    ("start", "length", "field", "words"),
    [
        (-HOUR, HOUR, "starts_at", "in the past"),
        (HOUR, -HOUR / 2, "ends_at", "after the start"),
        (HOUR, timedelta(days=7, seconds=1), "ends_at", "at most 7 days"),
        (5 * HOUR, HOUR, "starts_at", "A freeze lies in it."),
    ],
)
def test_times_that_cannot_be_taken_are_refused_at_their_field(
    site: Site,
    change: Change,
    administrator: User,
    start: timedelta,
    length: timedelta,
    field: str,
    words: str,
) -> None:
    now = timezone.now()
    declare_freeze(
        actor=administrator,
        cluster=site.cluster,
        starts_at=now + 5.5 * HOUR,
        ends_at=now + 9 * HOUR,
        reason="X",
    )

    refusal = refusal_of(lambda: schedule(site, change, after=start, length=length))

    assert isinstance(refusal, Invalid)
    assert list(refusal.fields) == [field]
    assert words in refusal.message


def test_a_change_has_one_window_at_a_time_and_cancelling_leaves_it_approved(
    site: Site, change: Change
) -> None:
    window = schedule(site, change)
    assert refusal_of(lambda: schedule(site, change)).code == "scheduled"

    cancel_window(actor=site.operator, change=change)

    begin(site, window)
    change.refresh_from_db()
    assert (window.state, window.cancelled_by, change.state) == ("cancelled", site.operator, "approved")
    assert refusal_of(lambda: cancel_window(actor=site.operator, change=change)).code == "nothing"
    assert schedule(site, change).state == "waiting"


def test_applying_it_at_once_makes_its_window_needless(site: Site, change: Change) -> None:
    window = schedule(site, change)

    apply_change(actor=site.operator, change=change)

    assert begin(site, window).state == "cancelled"
    assert Deployment.objects.filter(change=change).count() == 1
