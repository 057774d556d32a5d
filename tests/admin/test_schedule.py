"""Windows, freezes and the roll-out, as the pages show them."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from balancer.admin.times import read_moment, write_moment
from balancer.domain.lifecycle import WindowState
from balancer.models import Change, Deployment, Freeze, Job, Window
from balancer.workflow.freezes import declare_freeze
from balancer.workflow.schedules import end_window, schedule_change
from tests.admin.conftest import Login, messages_of
from tests.cast import Site
from tests.documents import service_data

HOUR = timedelta(hours=1)


def page_of(change: Change) -> str:
    return reverse("admin:balancer_change_change", args=[change.pk])


def deed_of(change: Change, deed: str) -> str:
    return reverse("admin:balancer_change_do", args=[change.pk, deed])


@pytest.fixture
def approved(site: Site) -> Change:
    return site.approved(service_data("web"))


def scheduled(site: Site, change: Change) -> Window:
    start = timezone.now() + HOUR
    return schedule_change(actor=site.operator, change=change, starts_at=start, ends_at=start + HOUR)


def frozen(administrator: User, site: Site) -> Freeze:
    now = timezone.now()
    return declare_freeze(
        actor=administrator, cluster=site.cluster, starts_at=now - HOUR, ends_at=now + HOUR, reason="Sale"
    )


def test_a_window_is_asked_for_in_the_consoles_time_zone_and_cancelled_on_the_page(
    site: Site, approved: Change, login: Login
) -> None:
    client, start = login(site.operator), timezone.now() + HOUR
    typed = {"starts_at": write_moment(start), "ends_at": write_moment(start + HOUR)}
    assert "Begin from (UTC)" in client.get(page_of(approved)).content.decode()

    page = client.post(deed_of(approved, "schedule"), typed, follow=True)

    window = Window.objects.get()
    assert window.starts_at == start.replace(second=0, microsecond=0)
    text = page.content.decode()
    assert "Scheduled by operator to begin between" in text
    assert 'id="schedule"' not in text, "one window at a time"
    page = client.post(deed_of(approved, "cancel-window"), follow=True)
    assert messages_of(page) == "The window is cancelled. The change stays approved."
    assert "Scheduled by" not in page.content.decode()


@pytest.mark.parametrize(
    ("start", "end", "field", "words"),
    [
        ("", "2099-01-01T10:00", "starts_at", "Give a date and a time."),
        ("2001-01-01T10:00", "2099-01-01T10:00", "starts_at", "That is in the past"),
        ("2099-01-01T10:00", "2099-01-01T09:00", "ends_at", "The end has to come after the start."),
        ("2099-01-01T10:00", "2099-01-09T10:00", "ends_at", "A window is at most 7 days long."),
    ],
)
def test_times_that_cannot_be_taken_come_back_with_the_reason_at_their_field(
    approved: Change, site: Site, login: Login, start: str, end: str, field: str, words: str
) -> None:
    answer = login(site.operator).post(
        deed_of(approved, "schedule"), {"starts_at": start, "ends_at": end}, follow=True
    )

    assert list(answer.context["field_errors"]) == [field]
    assert words in answer.context["field_errors"][field]
    text = answer.content.decode()
    assert f'id="{field}_error"' in text
    assert f'value="{end}"' in text
    assert not Window.objects.exists()


def test_a_stopped_window_says_why_on_the_change_the_dashboard_and_the_cluster(
    site: Site, approved: Change, login: Login
) -> None:
    window = scheduled(site, approved)
    from balancer.workflow import audit

    with audit.writing():
        end_window(window=window, state=WindowState.STOPPED, code="stale", why="Revision 7 became live.")
    client = login(site.operator)

    for address in ("/", page_of(approved), reverse("admin:balancer_cluster_change", args=[site.cluster.pk])):
        assert "Revision 7 became live." in client.get(address).content.decode(), address


def test_a_freeze_is_shown_wherever_somebody_could_apply(
    site: Site, approved: Change, administrator: User, login: Login
) -> None:
    frozen(administrator, site)
    client = login(site.operator)

    for address in ("/", page_of(approved), reverse("admin:balancer_cluster_change", args=[site.cluster.pk])):
        text = client.get(address).content.decode()
        assert "Frozen until" in text, address
        assert "Sale" in text, address
        assert "/lift/" not in text, address
    assert "is frozen until" in messages_of(client.post(deed_of(approved, "apply"), follow=True))


def test_an_administrator_declares_a_freeze_for_all_clusters_and_lifts_it(
    site: Site, administrator: User, login: Login
) -> None:
    client, now = login(administrator), timezone.now()
    address = reverse("admin:balancer_cluster_freeze", args=[site.cluster.pk])
    typed = {
        "starts_at": write_moment(now),
        "ends_at": write_moment(now + HOUR),
        "reason": "",
        "everywhere": "1",
    }
    refused = client.post(address, typed).content.decode()
    assert "Say why, so that those who wait know." in refused
    assert " checked" in refused

    client.post(address, typed | {"reason": "Sale"})

    freeze = Freeze.objects.get()
    assert (freeze.cluster, freeze.reason, freeze.made_by) == (None, "Sale", administrator)
    lift = reverse("admin:balancer_cluster_lift_freeze", args=[site.cluster.pk, freeze.pk])
    assert (
        lift in client.get(reverse("admin:balancer_cluster_change", args=[site.cluster.pk])).content.decode()
    )
    assert "is lifted" in messages_of(client.post(lift, follow=True))
    freeze.refresh_from_db()
    assert freeze.lifted_by == administrator


def test_who_is_no_administrator_lifts_nothing(site: Site, administrator: User, login: Login) -> None:
    freeze = frozen(administrator, site)
    lift = reverse("admin:balancer_cluster_lift_freeze", args=[site.cluster.pk, freeze.pk])

    login(site.operator).post(lift)

    freeze.refresh_from_db()
    assert freeze.lifted_at is None


def test_the_page_says_what_a_cancel_stops_and_afterwards_what_it_stopped(
    site: Site, approved: Change, login: Login
) -> None:
    client = login(site.operator)
    client.post(deed_of(approved, "apply"))
    site.run(Job.objects.get(position=1))

    before = client.get(page_of(approved)).content.decode()
    for words in (
        "1st of 2, the canary",
        "If you cancel: lb2 has not begun and will not be touched.",
        "lb1 is put back to what was live.",
        "Cancel the roll-out",
    ):
        assert words in before
    after = client.post(reverse("admin:balancer_change_cancel", args=[approved.pk]), follow=True)

    assert messages_of(after) == "Cancelled before lb2 had begun. lb1 had, and is put back."
    text = after.content.decode()
    assert "It had not begun, so nothing was changed here." in text
    assert "Being put back to revision 0." in text
    assert 'hx-trigger="every 1s"' in text, "until it is put back"
    assert Deployment.objects.get().state == "cancelled"


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01T00:00", "\x00"])
def test_what_is_no_moment_is_none(text: str) -> None:
    assert read_moment(text) is None
