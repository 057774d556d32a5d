"""What health checks found, on the pages; and the fields of what holds when all backends are down."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from balancer.domain.types import BackendState
from balancer.models import CounterState, Draft, HealthEvent, NodeHealth, Service
from balancer.workflow.drafts import save_draft
from balancer.workflow.health import record_standings
from balancer.workflow.live import value_of_row
from tests.admin.conftest import Login
from tests.admin.forms import form_of, new_service
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import operate
from tests.workflow.healing import ALL, Checked, standing, web
from tests.workflow.moving import ONE, TWO

ADD = "/balancer/service/add/"


@pytest.fixture
def checked(site: Site) -> Site:
    """One of four backends was found down on lb1 and is out of its kernel; lb2 has no health daemon."""
    site.deploy(web())
    worker = Checked(site)
    worker.tick(after=0)
    worker.say(ONE, up=ALL[1:], reason="connection refused after 1 ms")
    worker.tick(after=0)
    worker.say()
    return site


def page_of(login: Login, user: User, address: str) -> str:
    return login(user).get(address).content.decode()


def service_page(login: Login, user: User, name: str = "web") -> str:
    return page_of(login, user, f"/balancer/service/{Service.objects.get(name=name).pk}/change/")


def node_page(site: Site, login: Login, user: User, name: str) -> str:
    return page_of(login, user, f"/balancer/node/{site.cluster.nodes.get(name=name).pk}/change/")


def test_a_service_tells_who_is_down_where_and_why(
    checked: Site, login: Login, viewer: User, author: User
) -> None:
    for user in (viewer, author):
        page = service_page(login, user)
        assert f"tried tcp {ONE}, connection refused after 1 ms" in page
        assert page.count(">error</span>Down</span>") == 2, "the backend now, and the history"
        assert page.count('lb-dot--bad" aria-hidden="true"></span><span class="lb-hidden">down<') == 1
        assert page.count("25\N{NO-BREAK SPACE}% when up") == 1
        assert page.count("1/3 · 33.33\N{NO-BREAK SPACE}% now") == 3, "its health moves the shares of lb1"
        assert page.count(">0\N{NO-BREAK SPACE}% now") == 1
        assert page.count(">check_circle</span>Up</span>") == 3
        assert page.count(">help</span>Unknown</span>") == 4
        assert re.search(r"lb1 checked \d+ s ago", page)
        assert "No health daemon of lb2 was ever heard of" in page
        assert "(the kernel followed 0.0 s later)" in page


def test_an_operator_sees_it_beside_the_buttons_and_a_disabled_backend_is_in_maintenance(
    checked: Site, login: Login, operator: User
) -> None:
    operate(checked, 4, state=BackendState.DISABLED)
    operate(checked, 5, state=BackendState.DRAINING)

    page = page_of(login, operator, f"/balancer/service/{Service.objects.get().pk}/operate/")

    assert page.count(">build</span>Maintenance</span>") == 2
    assert page.count(">hourglass_bottom</span>Draining</span>") >= 2


def test_the_list_of_services_tells_how_many_are_down(checked: Site, login: Login, viewer: User) -> None:
    assert "Health unknown" in page_of(login, viewer, "/balancer/service/")
    record_standings("lb2", [standing(TWO, up=False, at=timezone.now())], clock=timezone.now)

    page = page_of(login, viewer, "/balancer/service/")

    assert "2 of 4 down" in page
    record_standings("lb1", [standing(ONE, up=True, at=timezone.now())], clock=timezone.now)
    record_standings("lb2", [standing(TWO, up=True, at=timezone.now())], clock=timezone.now)
    assert "All up" in page_of(login, viewer, "/balancer/service/")


def test_the_list_costs_the_same_however_many_services_are_checked(
    checked: Site, login: Login, viewer: User
) -> None:
    def count() -> int:
        client = login(viewer)
        with CaptureQueriesContext(connection) as queries:
            assert client.get("/balancer/service/").status_code == 200
        return len(queries)

    before = count()
    checked.deploy(*(web(port=100 + n) | {"name": f"s{n}"} for n in range(5)))

    assert count() == before


def test_a_node_tells_what_it_checks_who_is_down_and_what_there_was(
    checked: Site, login: Login, viewer: User
) -> None:
    page = node_page(checked, login, viewer, "lb1")
    assert "4 backends of 1 service" in page
    assert f"tried tcp {ONE}, connection refused after 1 ms" in page
    assert re.search(r"lb1 checked \d+ s ago\.", page)

    assert "No health daemon of lb2 was ever heard of, so nobody knows" in node_page(
        checked, login, viewer, "lb2"
    )


@pytest.mark.parametrize("address", ["/", "/balancer/node/", "cluster"])
def test_who_is_down_and_what_is_missing_is_seen_beside_the_nodes(
    checked: Site, login: Login, viewer: User, address: str
) -> None:
    address = f"/balancer/cluster/{checked.cluster.pk}/change/" if address == "cluster" else address
    page = page_of(login, viewer, address)
    assert "1 of 4 down" in page
    assert page.count("Not checked</span>") == 1, "lb2, of which nobody knows"
    assert page.count("Not counted</span>") == 2
    if address != "/balancer/node/":
        assert f'{ONE}</span> of <a href="/balancer/service/?q=web">web</a> on lb1: ' in page
        assert "connection refused after 1 ms" in page
        assert "No health daemon is heard of, so nobody knows how its backends are" in page
        assert "No counting process is heard of" in page

    record_standings("lb1", [standing(ONE, up=True, at=timezone.now())], clock=timezone.now)
    record_standings("lb2", [standing(TWO, up=True, at=timezone.now())], clock=timezone.now)
    CounterState.objects.bulk_create(
        CounterState(node=node, counted_at=timezone.now()) for node in checked.cluster.nodes.all()
    )

    page = page_of(login, viewer, address)
    assert page.count("All up</span>") == 2
    assert all(word not in page for word in ("1 of 4 down", "Not checked</span>", "Not counted</span>"))


def test_a_backend_that_was_taken_out_by_hand_is_not_missed(
    checked: Site, login: Login, viewer: User
) -> None:
    operate(checked, 3, state=BackendState.DISABLED)
    assert "1 of" not in page_of(login, viewer, "/balancer/node/")
    assert "All up</span>" in page_of(login, viewer, "/balancer/node/")


def test_a_health_daemon_that_has_died_is_missed_and_the_states_age_to_unknown(
    checked: Site, login: Login, viewer: User
) -> None:
    long_ago = timezone.now() - timedelta(minutes=7)
    NodeHealth.objects.update(checked_at=long_ago)
    checked.cluster.nodes.get(name="lb1").backend_health.update(checked_at=long_ago)

    assert service_page(login, viewer).count(">help</span>Unknown</span>") == 8
    page = node_page(checked, login, viewer, "lb1")
    assert "lb1 checked 7 min ago, so nobody knows how the backends are. Traffic goes on as it was." in page


def test_what_holds_when_all_are_down_is_told(site: Site, login: Login, viewer: User) -> None:
    site.deploy(web(all_down="refuse"))
    worker = Checked(site)
    worker.say(*ALL)
    worker.tick(after=0)

    page = service_page(login, viewer)

    assert "On lb1, 0 of 4 backends are healthy: new connections are refused." in page
    assert HealthEvent.objects.filter(kind="panic").count() == 1


def test_services_without_checks_say_nothing_of_health(site: Site, login: Login, viewer: User) -> None:
    site.deploy(service_data("web"))
    assert "health daemon" not in service_page(login, viewer)
    assert "health daemon" not in node_page(site, login, viewer, "lb1")


def test_what_holds_when_all_are_down_goes_into_the_form_and_comes_out(site: Site, login: Login) -> None:
    site.deploy(
        service_data("sorry", port=8080),
        web(all_down="service", all_down_service="sorry", healthy_min=30),
    )
    row = Service.objects.get(name="web")
    value = value_of_row(row)
    assert value is not None
    assert (value.all_down, value.all_down_service, value.healthy_min) == ("service", "sorry", 30)
    client = login(site.author)
    address = f"/balancer/service/{row.pk}/change/"

    fields = form_of(client.get(address))
    assert (fields["all_down"], fields["all_down_service"], fields["healthy_min"]) == (
        "service",
        "sorry",
        "30",
    )
    client.post(address, fields | {"healthy_min": "40"})

    after = Draft.objects.get(change__state="draft").after
    assert (after["all_down"], after["all_down_service"], after["healthy_min"]) == ("service", "sorry", 40)


@pytest.mark.parametrize(
    ("typed", "field", "sentence"),
    [
        ({"all_down": "refuse"}, "all_down", "Without health checks no backend is ever found down"),
        ({"healthy_min": "20"}, "healthy_min", "Without health checks"),
        ({"health": "tcp", "healthy_min": "101"}, "healthy_min", "from 0 to 100"),
        ({"health": "tcp", "healthy_min": "half"}, "healthy_min", "whole number"),
        ({"health": "tcp", "all_down": "service"}, "all_down_service", "Name the service"),
        (
            {"health": "tcp", "all_down": "service", "all_down_service": "nobody"},
            "all_down_service",
            "there is no such service",
        ),
    ],
)
def test_a_mistake_is_told_at_its_field_and_saves_nothing(
    site: Site, login: Login, typed: dict[str, Any], field: str, sentence: str
) -> None:
    response = login(site.author).post(ADD, new_service(**typed))

    assert sentence in " ".join(response.context["editor"].form.errors[field])
    assert not Draft.objects.exists()


def test_a_service_on_which_another_one_counts_cannot_be_deleted_or_disabled(site: Site) -> None:
    site.deploy(service_data("sorry", port=8080), web(all_down="service", all_down_service="sorry"))

    for fields in ({"enabled": False}, {"protocol": "udp"}):
        saved = save_draft(
            actor=site.author,
            cluster=site.cluster,
            data=service_data("sorry", port=8080, **fields),
            original_name="sorry",
        )
        assert not saved.saved
        assert "sorry takes the connections of web" in str(saved.problems)
