"""What was found when a change was rehearsed, on its page and in what is kept of a review."""

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from balancer.lab.fake import unable
from balancer.models import Change, Node, Review
from balancer.workflow.submissions import submit_change
from tests.admin.conftest import Login, messages_of
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.rehearsing import Stage, make_stage, spoil_shares, states, waiting


@pytest.fixture
def stage(site: Site) -> Stage:
    return make_stage(site)


@pytest.fixture
def change(site: Site, stage: Stage) -> Change:
    """Submitted, with a rehearsal queued on each of two nodes."""
    return submit_change(actor=site.author, change=site.change(service_data("web")))


def page(change: Change) -> str:
    return reverse("admin:balancer_change_change", args=[change.pk])


def piece(change: Change) -> str:
    return reverse("admin:balancer_change_rehearsal", args=[change.pk])


def test_the_card_shows_what_was_measured_beside_what_was_promised(
    stage: Stage, change: Change, login: Login, approver: User
) -> None:
    stage.run_all(change)

    shown = login(approver).get(page(change)).content.decode()

    assert "legacy through python-iptables" in shown
    assert "Passed: 1 services traced." in shown
    assert shown.count("25.00 % (100)") == 8  # four backends on two nodes
    assert "400 connections, 0 lost; backends saw 198.18.2.1" in shown
    assert "do/approve/" in shown
    assert 'hx-get="/balancer/change' not in shown


def test_while_it_runs_the_card_polls_and_nobody_can_approve(
    stage: Stage, change: Change, login: Login, approver: User
) -> None:
    client = login(approver)

    shown = client.get(page(change)).content.decode()

    assert f'hx-get="{piece(change)}"' in shown
    assert "It is being rehearsed on lb1; wait for the result." in shown
    assert "do/approve/" not in shown
    assert "do/rehearse/" not in shown
    assert f'hx-get="{piece(change)}"' in client.get(piece(change)).content.decode()
    posted = client.post(
        reverse("admin:balancer_change_do", args=[change.pk, "approve"]),
        {"digest": change.digest},
        follow=True,
    )
    assert "wait for the result" in messages_of(posted)
    assert Change.objects.get().state == "submitted"


def test_when_it_is_over_the_page_is_loaded_anew_but_not_from_under_somebody_who_writes(
    stage: Stage, change: Change, login: Login, approver: User
) -> None:
    client = login(approver)
    stage.run_all(change)

    assert client.get(piece(change)).headers["HX-Refresh"] == "true"
    typing = client.get(piece(change), {"reason": "Why not"})
    assert "HX-Refresh" not in typing.headers
    assert "Reload the page to go on" in typing.content.decode()
    assert "hx-trigger" not in typing.content.decode()


def test_a_failure_is_told_with_its_numbers_and_another_try_is_one_click(
    stage: Stage, change: Change, login: Login, approver: User
) -> None:
    stage.ways["lb1"].spoil = spoil_shares
    stage.ways["lb2"].fail_next = unable()
    stage.run_all(change)
    client = login(approver)

    shown = client.get(page(change)).content.decode()
    assert "10.0.0.3:80 got 200 of 400 connections, where 100 are promised." in shown
    assert "A rehearsal needs ip, which this machine lacks." in shown
    assert "Without a rehearsal that passed it cannot be approved." in shown
    assert "do/approve/" not in shown
    client.post(reverse("admin:balancer_change_do", args=[change.pk, "rehearse"]))

    assert [state for _, state in states(change)] == ["failed", "failed", "queued", "queued"]


def test_what_was_seen_of_the_rehearsal_is_kept_with_the_approval(
    stage: Stage, change: Change, login: Login, approver: User
) -> None:
    stage.run_all(change)
    client = login(approver)
    page_shown = client.get(page(change))
    fields = {"digest": change.digest, "shown": page_shown.context["shown"]}

    client.post(reverse("admin:balancer_change_do", args=[change.pk, "approve"]), fields)

    assert Change.objects.get().state == "approved"
    kept = Review.objects.get()
    found = kept.content["rehearsals"]
    assert [(one["node"], one["state"], one["current"]) for one in found] == [
        ("lb1", "passed", True),
        ("lb2", "passed", True),
    ]
    assert found[0]["result"]["services"][0]["endpoints"][0]["measured"] == 100
    address = reverse("admin:balancer_review_change", args=[kept.pk])
    assert "25.00 % (100)" in client.get(address).content.decode()


def test_a_node_that_nobody_has_seen_is_named(site: Site, stage: Stage, login: Login, author: User) -> None:
    Node.objects.filter(name="lb2").update(facts={}, last_seen=None)
    draft = site.change(service_data("web"))

    shown = login(author).get(page(draft)).content.decode()

    assert "Not known is how lb2 would load it: no worker was seen there." in shown
    assert "do/rehearse/" in shown
    assert waiting(draft) == []
