"""Remembered clients on the pages of services and nodes, and the way to have them forgotten."""

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.models import Clearing, Node, Service
from tests.admin.conftest import ROLES, Login, messages_of
from tests.admin.reading import page
from tests.cast import Site
from tests.workflow.test_persistence import FIRST, STICKY
from tests.workflow.ticking import Worker

ASK = "Clear persistence…"


@pytest.fixture
def web(site: Site) -> Service:
    site.deploy(STICKY)
    site.kernels["lb1"].sets.clients[FIRST] |= {"192.0.2.1", "192.0.2.2"}
    Worker(site).tick(after=0)
    return Service.objects.get(name="web")


def test_service_and_node_say_how_many_clients_are_remembered_and_when_they_were_counted(
    web: Service, login: Login, viewer: User
) -> None:
    text = page(login, viewer, f"/balancer/service/{web.pk}/change/")
    assert "Remembered clients each keeps its backend for 300 s after its last new connection" in text
    assert re.search(r"Counted: lb1 as of \d+ s ago, lb2 not counted yet\.", text)
    assert "10.0.0.3:80 2 none kept 10.0.0.4:80 0 none kept" in text

    node = Node.objects.get(name="lb1")
    text = page(login, viewer, f"/balancer/node/{node.pk}/change/")
    assert re.search(r"Remembered clients as of \d+ s ago", text)
    assert "web: 2 clients 10.0.0.3:80 2 10.0.0.4:80 0" in text


def test_where_no_service_keeps_clients_nothing_is_said_of_them(
    site: Site, web: Service, login: Login, operator: User
) -> None:
    site.deploy(STICKY | {"persistence": {"mode": "none"}})
    node = Node.objects.get(name="lb1")
    for address in (f"/balancer/service/{web.pk}/change/", f"/balancer/node/{node.pk}/change/"):
        assert "Remembered clients" not in page(login, operator, address)
    response = login(operator).get(f"/balancer/service/{web.pk}/clear/", follow=True)
    assert "has no persistence in what is live" in messages_of(response)


def test_an_operator_is_asked_first_and_reads_afterwards_what_became_of_it(
    site: Site, web: Service, login: Login, operator: User
) -> None:
    assert ASK in page(login, operator, f"/balancer/service/{web.pk}/change/")
    asked = page(login, operator, f"/balancer/service/{web.pk}/clear/")
    assert "forget the clients of all backends of web: 2 as counted last" in asked
    assert not Clearing.objects.exists()

    response = login(operator).post(f"/balancer/service/{web.pk}/clear/", follow=True)

    assert "The nodes forget them within seconds" in messages_of(response)
    assert response.redirect_chain == [(f"/balancer/service/{web.pk}/change/", 302)]
    assert "On its way" in response.content.decode()
    Worker(site).tick()
    text = page(login, operator, f"/balancer/service/{web.pk}/change/")
    assert "lb1: all backends, 2 clients forgotten asked by operator" in text


def test_one_backend_is_cleared_alone(site: Site, web: Service, login: Login, operator: User) -> None:
    asked = page(login, operator, f"/balancer/service/{web.pk}/clear/?endpoint=10.0.0.3:80")
    assert "10.0.0.3:80 of web: 2 as counted last" in asked
    login(operator).post(f"/balancer/service/{web.pk}/clear/", {"endpoint": "10.0.0.3:80"})
    assert set(Clearing.objects.values_list("endpoint", flat=True)) == {"10.0.0.3:80"}


@pytest.mark.parametrize("endpoint", ["10.0.0.99:80", "nonsense", "\x00", "x" * 500])
def test_a_backend_that_is_none_is_answered_with_a_sentence(
    web: Service, login: Login, operator: User, endpoint: str
) -> None:
    response = login(operator).post(f"/balancer/service/{web.pk}/clear/", {"endpoint": endpoint}, follow=True)
    assert "has no backend" in messages_of(response)
    asked = login(operator).get(f"/balancer/service/{web.pk}/clear/", {"endpoint": endpoint}, follow=True)
    assert "no such backend" in messages_of(asked)
    assert not Clearing.objects.exists()


def test_who_is_no_operator_finds_no_button_and_a_forged_press_does_nothing(
    web: Service, login: Login, request: pytest.FixtureRequest
) -> None:
    offered, done = set(), set()
    for name in ROLES:
        client = login(request.getfixturevalue(name))
        shown = client.get(f"/balancer/service/{web.pk}/change/", follow=True).content.decode()
        offered |= {name} if ASK in shown else set()
        client.post(f"/balancer/service/{web.pk}/clear/")
        done |= {name} if Clearing.objects.exists() else set()
        Clearing.objects.all().delete()

    assert offered == done == {"operator", "administrator"}


def test_a_press_from_another_site_is_refused(web: Service, operator: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(f"/balancer/service/{web.pk}/clear/").status_code == 403
    assert not Clearing.objects.exists()
