"""Backends that drain, counted down on the pages of services and nodes."""

import re

from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from balancer.models import Node, Service
from tests.admin.conftest import Login
from tests.admin.reading import page
from tests.cast import Site
from tests.workflow.test_leaving import FIRST, web
from tests.workflow.ticking import Worker


def pieces(client: Client, site: Site) -> list[str]:
    """What is polled: of the service, and of the node."""
    service, node = Service.objects.get(name="web"), Node.objects.get(name="lb1")
    addresses = (f"/balancer/service/{service.pk}/leaving/", f"/balancer/node/{node.pk}/leaving/")
    return [client.get(address).content.decode() for address in addresses]


def addresses() -> list[str]:
    service, node = Service.objects.get(name="web"), Node.objects.get(name="lb1")
    return [
        f"/balancer/service/{service.pk}/operate/",
        f"/balancer/service/{service.pk}/change/",
        f"/balancer/node/{node.pk}/change/",
    ]


def test_the_pages_count_down_and_say_when_the_backend_can_be_switched_off(
    site: Site, login: Login, viewer: User
) -> None:
    site.deploy(web("draining"))
    site.kernels["lb1"].open = {"web": {FIRST: 14}}
    workers = [Worker(site, name=name) for name in ("lb1", "lb2")]
    for worker in workers:
        worker.tick(after=0)
    for address in addresses():
        text = page(login, viewer, address)
        assert re.search(r"10.0.0.3:80 on lb1: 14 connections left \(as of \d+ s ago\)", text)
        assert "Empty since" not in text

    site.kernels["lb1"].open = {}
    workers[0].tick(after=0)
    since = f"Empty since {timezone.localtime(workers[0].now):%H:%M}"
    of_service, of_node = pieces(login(viewer), site)
    assert f"{since}: it can be switched off." in of_service
    assert f"{since} on this node." in of_node
    assert all('hx-trigger="every 5s"' in piece for piece in (of_service, of_node))


def test_nothing_is_said_and_nothing_is_polled_where_nothing_drains(
    site: Site, login: Login, viewer: User
) -> None:
    site.deploy(web())
    for address in addresses():
        assert "Leaving" not in page(login, viewer, address)
    assert [piece.strip() for piece in pieces(login(viewer), site)] == ["", ""]
