"""The pages of a service and a node say what nodes made of the weights, and why."""

from fractions import Fraction

from django.contrib.auth.models import User

from balancer.admin.shares import format_percent
from balancer.models import Service, WeightMove
from tests.admin.conftest import Login
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.ticking import Worker


def moved(site: Site) -> Worker:
    """A worker whose node has moved weights of the service web."""
    site.deploy(service_data("web", scheduler="least-connections"))
    site.deploy(service_data("mail", port=25))
    worker = Worker(site)
    site.kernels["lb1"].loads = {"web": {"10.0.0.3:80": 300, "10.0.0.4:80": 100}}
    for _ in range(3):
        worker.tick()
    return worker


def page_of(login: Login, user: User, name: str) -> str:
    service = Service.objects.get(name=name)
    return login(user).get(f"/balancer/service/{service.pk}/change/").content.decode()


def test_a_service_tells_the_share_on_each_node_beside_the_declared_one(
    site: Site, login: Login, viewer: User, author: User
) -> None:
    worker = moved(site)
    now = format_percent(Fraction(WeightMove.objects.filter(backend="10.0.0.3:80")[0].share_after))
    for user in (viewer, author):
        page = page_of(login, user, "web")
        assert "Weights that nodes move themselves" in page
        assert page.count("effective share now on") == 8
        assert f'<a href="/balancer/node/{worker.node.pk}/change/">lb1</a>: {now} (declared 25' in page
        assert "lb2</a>: 25\N{NO-BREAK SPACE}% (declared 25\N{NO-BREAK SPACE}%)" in page
        assert "10.0.0.3:80 has 300 of 400 connections, its weight says 100." in page


def test_a_service_whose_weights_stay_says_nothing_of_it(site: Site, login: Login, viewer: User) -> None:
    moved(site)

    assert "Weights that nodes move" not in page_of(login, viewer, "mail")


def test_a_node_tells_what_it_moved_and_why(site: Site, login: Login, viewer: User) -> None:
    node = moved(site).node

    page = login(viewer).get(f"/balancer/node/{node.pk}/change/").content.decode()
    assert "Weights that it moved itself" in page
    assert "10.0.0.3:80 has 300 of 400 connections, its weight says 100." in page
    other = login(viewer).get(f"/balancer/node/{site.cluster.nodes.get(name='lb2').pk}/change/")
    assert "Weights that it moved itself" not in other.content.decode()
