"""The ways back in the console: chosen services, the very bytes or why not, and at once."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.models import Change, Cluster, Revision
from tests.admin.conftest import Login, messages_of
from tests.admin.reading import text_of
from tests.cast import Site
from tests.documents import service_data


@pytest.fixture
def old(site: Site) -> Revision:
    """Web and mail were otherwise in it; dns came since."""
    revision = site.deploy(service_data("web"), service_data("mail", port=25))
    site.deploy(
        service_data("web", port=81),
        service_data("mail", port=26),
        service_data("dns", port=53, protocol="udp"),
    )
    return revision


@pytest.fixture
def operator_at(site: Site, login: Login) -> Client:
    return login(site.operator)


def test_single_services_are_chosen_on_the_page_of_a_revision(old: Revision, operator_at: Client) -> None:
    page = operator_at.get(f"/balancer/revision/{old.pk}/change/").content.decode()
    assert [name in page for name in ('value="web"', 'value="mail"', 'value="dns"')] == [True] * 3

    address = f"/balancer/revision/{old.pk}/roll-back/"
    response = operator_at.post(address, {"some": "1", "service": ["mail", "dns"]}, follow=True)

    change = Change.objects.get(kind="rollback")
    assert change.rollback_services == ["dns", "mail"]
    assert set(change.drafts.values_list("service_name", "action")) == {("dns", "delete"), ("mail", "modify")}
    assert "Only dns, mail of revision 1 come back" in text_of(response)


def test_none_chosen_is_said_and_makes_no_change(old: Revision, operator_at: Client) -> None:
    response = operator_at.post(f"/balancer/revision/{old.pk}/roll-back/", {"some": "1"}, follow=True)

    assert "Choose at least one service" in messages_of(response)
    assert not Change.objects.filter(kind="rollback").exists()


def test_the_whole_is_promised_to_the_byte(old: Revision, operator_at: Client) -> None:
    page = text_of(operator_at.get(f"/balancer/revision/{old.pk}/change/"))
    assert "The ruleset will be byte for byte the one of revision 1." in page

    response = operator_at.post(f"/balancer/revision/{old.pk}/roll-back/", follow=True)

    assert "The ruleset will be byte for byte the one of revision 1." in text_of(response)


def test_the_button_to_go_back_at_once_is_there_where_policy_and_rights_allow_it(
    site: Site, old: Revision, viewer: User, operator_at: Client, login: Login
) -> None:
    page = f"/balancer/cluster/{site.cluster.pk}/change/"
    assert "Roll back to revision" not in text_of(operator_at.get(page))
    Cluster.objects.update(rollback_at_once=True)

    assert "Roll back to revision 1 now" in text_of(operator_at.get(page))
    for person in (viewer, site.author, site.approver):
        assert "Roll back to revision" not in text_of(login(person).get(page))


def test_going_back_at_once_leads_to_the_page_that_shows_how_far_it_is(
    site: Site, old: Revision, operator_at: Client
) -> None:
    Cluster.objects.update(rollback_at_once=True)

    response = operator_at.post(f"/balancer/cluster/{site.cluster.pk}/roll-back/", follow=True)

    change = Change.objects.get(kind="rollback")
    assert response.redirect_chain[-1][0] == f"/balancer/change/{change.pk}/change/"
    site.finish(change.deployments.get())
    assert dict(site.cluster.services.values_list("name", "port")) == {"web": 80, "mail": 25}
