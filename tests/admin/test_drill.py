"""Rollback drills on the pages: the card of a node, its button, the list, and the notes on the dashboard."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from balancer.models import Cluster, Job, Node
from tests.admin.conftest import ROLES, Login, messages_of
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.ticking import Worker

BUTTON = "Start a drill</button>"


@pytest.fixture
def node(site: Site) -> Node:
    site.deploy(service_data("web"))
    Worker(site).tick(after=0)
    return Node.objects.get(name="lb1")


def page_of(login: Login, user: User, node: Node) -> str:
    return login(user).get(reverse("admin:balancer_node_change", args=[node.pk])).content.decode()


def dashboard(login: Login, user: User) -> str:
    return login(user).get(reverse("admin:index")).content.decode()


def press(login: Login, user: User, node: Node) -> str:
    address = reverse("admin:balancer_node_drill", args=[node.pk])
    return messages_of(login(user).post(address, follow=True))


def test_the_button_is_there_for_those_who_may_and_does_nothing_for_others(
    login: Login, node: Node, request: pytest.FixtureRequest
) -> None:
    offered, done = set(), set()
    for name in ROLES:
        user = request.getfixturevalue(name)
        offered |= {name} if BUTTON in page_of(login, user, node) else set()
        press(login, user, node)
        done |= {name} if Job.objects.filter(reason="drill", state="queued").exists() else set()
        Job.objects.filter(reason="drill").update(state="cancelled")

    assert offered == done == {"approver", "operator", "administrator"}


def test_a_drill_is_told_from_the_button_to_the_proof(login: Login, site: Site, node: Node) -> None:
    assert "Never proven" in page_of(login, site.operator, node)

    assert "The drill begins in a moment" in press(login, site.operator, node)
    page = page_of(login, site.operator, node)
    assert "A drill is under way." in page
    assert BUTTON not in page

    site.run(Job.objects.get(reason="drill"))
    Node.objects.update(drill_late=0.2334)
    page = page_of(login, site.operator, node)
    assert "Proven just now" in page
    assert "<dd>233 ms after the deadline</dd>" in page
    assert "with iptables-nft" in page
    assert "went back by itself." not in page + dashboard(login, site.operator)
    listed = login(site.operator).get(reverse("admin:balancer_node_changelist")).content.decode()
    assert "Proven just now" in listed
    assert "Never proven" in listed


def test_a_refusal_is_a_sentence_on_the_page(login: Login, site: Site, node: Node) -> None:
    Node.objects.update(guard={"alive": False})

    assert "nothing would put the old rules back" in press(login, site.operator, node)


def test_a_drill_that_failed_is_loud_on_node_and_dashboard_until_one_is_proven(
    login: Login, site: Site, node: Node, viewer: User
) -> None:
    press(login, site.operator, node)
    site.guard("lb1").alive = False
    site.run(Job.objects.get(reason="drill"))

    for page in (page_of(login, viewer, node), dashboard(login, viewer)):
        assert "did not prove that it goes back by itself." in page
        assert "No guard, no apply" in page
        assert 'role="alert"' in page
    assert "Drill failed" in page_of(login, viewer, node)

    site.guard("lb1").alive = True
    press(login, site.operator, node)
    site.run(Job.objects.get(reason="drill", state="queued"))

    assert "did not prove" not in page_of(login, viewer, node) + dashboard(login, viewer)


def test_an_overdue_drill_is_on_the_dashboard_with_what_it_takes(
    login: Login, site: Site, node: Node, viewer: User
) -> None:
    Cluster.objects.update(drill_hours=24)
    Node.objects.update(drilled_at=timezone.now())
    assert "is overdue" not in dashboard(login, viewer)

    Node.objects.filter(pk=node.pk).update(drilled_at=timezone.now() - timedelta(days=3))

    assert "asks for one every 24 hours" in dashboard(login, viewer)
    assert "Proven 3 days ago, overdue" in page_of(login, viewer, node)
