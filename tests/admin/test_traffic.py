"""Traffic of a service: plots and tables of what its nodes counted."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from balancer.kernel.flow_counts import Carried
from balancer.kernel.sampler import Look
from balancer.models import Node, Service
from balancer.workflow.counting import CountingMemory, count_node
from tests.admin.conftest import Login
from tests.cast import Site
from tests.workflow.moving import FOUR, ONE, THREE, TWO, web


@pytest.fixture
def service(site: Site) -> Service:
    """Of two nodes: four connections a second on lb1, of which backend one got half; one a second on lb2."""
    site.deploy(web())
    now = datetime.now(UTC)
    for name, counts in (("lb1", {ONE: 20, TWO: 10, THREE: 10}), ("lb2", {ONE: 10})):
        look_at(name, counts, ticks=range(41), begin=now - timedelta(seconds=420))
    return Service.objects.get(name="web")


def look_at(
    node: str,
    counts: dict[str, int],
    *,
    ticks: Iterable[int],
    begin: datetime,
    memory: CountingMemory | None = None,
) -> None:
    """Looks so many tens of seconds behind the beginning, with so many connections in each ten seconds."""
    memory = memory or CountingMemory()
    for tick in ticks:
        look = Look(
            epoch="first",
            connections={("web", one): count * tick for one, count in counts.items()},
            refused={("web", "no-backend"): 5 * tick},
            carried={("web", ONE): Carried(100, 6000, 7)} if tick else {},
        )
        at = begin + timedelta(seconds=10 * (tick + 1))
        count_node(
            node_name=node,
            look=lambda *_, look=look, **__: look,
            memory=memory,
            clock=lambda at=at: at,
            steady=lambda tick=tick: 10.0 * tick,
        )


def test_nodes_that_look_at_different_intervals_are_added_at_every_step(
    site: Site, viewer: User, login: Login
) -> None:
    """lb2 has so many rules that it looks each thirty seconds only."""
    site.deploy(web())
    begin = datetime.now(UTC) - timedelta(seconds=620)
    look_at("lb1", {ONE: 10}, ticks=range(61), begin=begin)
    look_at("lb2", {ONE: 10}, ticks=range(0, 61, 3), begin=begin)

    client, row = login(viewer), Service.objects.get(name="web")
    data = ask(client, row, range="quarter")
    page = client.get(reverse("admin:balancer_service_traffic", args=[row.pk])).content.decode()

    assert "lb2 is looked at about every 30 seconds" in page
    assert "lb1 is looked at" not in page
    shown = [number for number in data["backends"][0]["new"] if number is not None]
    assert shown[1:-3] == [2.0] * len(shown[1:-3])


def ask(client: Client, service: Service, **query: str) -> dict[str, Any]:
    answer = client.get(reverse("admin:balancer_service_traffic_data", args=[service.pk]), query)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    data: dict[str, Any] = answer.json()
    return data


def last(line: list[float | None]) -> float | None:
    return [number for number in line if number is not None][-1]


def test_lines_add_what_all_nodes_counted(service: Service, viewer: User, login: Login) -> None:
    data = ask(login(viewer), service)

    lines = {one["name"]: one for one in data["backends"]}
    assert list(lines) == [ONE, TWO, THREE, FOUR], "the busiest first"
    assert last(lines[ONE]["new"]) == 3.0
    assert last(lines[ONE]["packets"]) == 20.0
    assert last(lines[ONE]["bytes"]) == 1200.0
    assert last(lines[ONE]["current"]) == 14
    assert (last(lines[ONE]["observed"]), last(lines[ONE]["declared"])) == (60.0, 25.0)
    assert (last(lines[FOUR]["observed"]), last(lines[FOUR]["declared"])) == (0.0, 25.0)
    assert last(data["refused"][0]["refused"]) == 1.0
    assert [mark["revision"] for mark in data["marks"]] == [1, 1]
    assert all(len(one["new"]) == len(data["times"]) == 360 for one in data["backends"])
    assert lines[ONE]["new"][0] is None, "nobody counted then"


def test_one_node_or_one_backend_can_be_looked_at_alone(service: Service, viewer: User, login: Login) -> None:
    client = login(viewer)

    assert last(ask(client, service, node="lb1")["backends"][0]["new"]) == 2.0
    (only,) = ask(client, service, backend=TWO)["backends"]
    assert (only["name"], last(only["new"])) == (TWO, 1.0)


@pytest.mark.parametrize("span", ["quarter", "hour", "day", "month"])
def test_every_span_shows_the_same_rate(service: Service, viewer: User, login: Login, span: str) -> None:
    data = ask(login(viewer), service, range=span)

    if span != "month":  # whose last whole hour may lie before anything was counted
        assert last(data["backends"][0]["new"]) == 3.0
    assert len(data["times"]) == {"quarter": 90, "hour": 360, "day": 1440, "month": 720}[span]


def test_the_page_says_in_tables_what_the_plots_show(service: Service, viewer: User, login: Login) -> None:
    page = login(viewer).get(reverse("admin:balancer_service_traffic", args=[service.pk]))

    text = page.content.decode()
    assert "1200 connections" in text, "since first seen: 800 on lb1 and 400 on lb2"
    assert '<td data-label="New connections">1200</td>' in text
    assert "no backend takes connections" in text
    assert "Revision 1 on lb1" in text
    rows = re.findall(r'<tr><th scope="row">\d+ \w+, \d\d:\d\d</th>(.*?)</tr>', text)
    assert 0 < len(rows) < 12, "none of the time before anything was counted"
    assert rows[0].count(">\N{EN DASH}<") < 2
    assert "onclick" not in text
    assert "<style" not in text.split('id="content-main"')[1]


def test_what_is_asked_wrongly_is_taken_as_not_asked(service: Service, viewer: User, login: Login) -> None:
    data = ask(login(viewer), service, range="year", node="nobody", backend="<script>")

    assert len(data["times"]) == 360
    assert len(data["backends"]) == 4


def test_who_may_not_see_services_sees_no_traffic(service: Service, stranger: User, login: Login) -> None:
    client = login(stranger)

    for name in ("traffic", "traffic_data"):
        answer = client.get(reverse(f"admin:balancer_service_{name}", args=[service.pk]))
        assert answer.status_code in {302, 403, 404}
        assert ONE not in answer.content.decode()


def test_a_node_that_counts_no_more_is_named(service: Service, viewer: User, login: Login) -> None:
    Node.objects.get(name="lb2").counting.delete()

    page = login(viewer).get(reverse("admin:balancer_service_traffic", args=[service.pk]))

    assert "Nothing has been counted on lb2 yet" in page.content.decode()
