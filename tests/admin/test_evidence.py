"""The evidence file is on the pages of its change and its revision, to be taken away."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.models import Deployment, Evidence
from tests.admin.conftest import Login
from tests.cast import Site
from tests.documents import service_data


@pytest.fixture
def deployment(site: Site) -> Deployment:
    site.deploy(service_data("web"))
    return Deployment.objects.get()


def address(deployment: Deployment) -> str:
    return f"/balancer/change/{deployment.change_id}/evidence/{deployment.pk}/"


@pytest.mark.parametrize("place", ["change/{0.change_id}", "revision/{0.revision_id}"])
def test_change_and_revision_lead_to_the_file(
    place: str, deployment: Deployment, login: Login, viewer: User
) -> None:
    shown = login(viewer).get(f"/balancer/{place.format(deployment)}/change/").content.decode()

    assert address(deployment) in shown
    assert Evidence.objects.get().sha256[:16] in shown


def test_the_file_comes_as_it_was_sealed(deployment: Deployment, login: Login, viewer: User) -> None:
    answer = login(viewer).get(address(deployment))

    assert answer.content.decode() == Evidence.objects.get().text
    assert answer.headers["Content-Type"] == "application/json"
    name = f"evidence-edge-1-{deployment.pk}.json"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'


def test_the_file_is_not_for_strangers_and_not_under_another_change(
    deployment: Deployment, site: Site, login: Login, stranger: User, viewer: User
) -> None:
    other = site.change(service_data("dns", port=53))

    assert login(stranger).get(address(deployment)).status_code == 302
    assert Client().get(address(deployment)).status_code == 302
    elsewhere = f"/balancer/change/{other.pk}/evidence/{deployment.pk}/"
    assert login(viewer).get(elsewhere).status_code == 302


def test_a_change_that_was_never_sent_to_the_nodes_shows_none(site: Site, login: Login, viewer: User) -> None:
    change = site.change(service_data("dns", port=53))

    assert "Evidence" not in login(viewer).get(f"/balancer/change/{change.pk}/change/").content.decode()
