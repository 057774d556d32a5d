"""Rules that an earlier lbadmin compiled: the pages say so, and offer the way out."""

import pytest
from django.contrib.auth.models import User

from balancer.models import Change, Node, Revision
from tests.admin.conftest import Login
from tests.admin.reading import text_of
from tests.cast import Site
from tests.documents import service_data
from tests.upgrade import earlier_lbadmin


@pytest.fixture
def old(site: Site) -> Revision:
    with earlier_lbadmin():
        return site.deploy(service_data("web"))


def pages_of(site: Site, revision: Revision) -> list[str]:
    service = site.cluster.services.get()
    return [
        f"/balancer/node/{Node.objects.get(name='lb1').pk}/change/",
        f"/balancer/cluster/{site.cluster.pk}/change/",
        f"/balancer/service/{service.pk}/change/",
        f"/balancer/revision/{revision.pk}/change/",
    ]


def test_the_pages_of_what_is_live_say_so_and_what_to_do(
    site: Site, old: Revision, login: Login, viewer: User
) -> None:
    client = login(viewer)
    for page in pages_of(site, old):
        text = text_of(client.get(page))
        assert "was compiled by an earlier lbadmin" in text, page
        assert "compile revision 1 anew" in text, page
        assert "Compile it anew" not in text, "a viewer cannot"


def test_nothing_is_said_where_the_rules_are_those_of_this_lbadmin(
    site: Site, login: Login, viewer: User
) -> None:
    live, client = site.deploy(service_data("web")), login(viewer)
    for page in pages_of(site, live):
        assert "earlier lbadmin" not in text_of(client.get(page)), page


def test_one_click_prepares_the_change_that_compiles_it_anew(site: Site, old: Revision, login: Login) -> None:
    client = login(site.operator)
    page = f"/balancer/revision/{old.pk}/change/"
    assert "Compile it anew" in text_of(client.get(page))

    response = client.post(f"/balancer/revision/{old.pk}/roll-back/", follow=True)

    change = Change.objects.get(kind="rollback")
    assert change.title == "Compile revision 1 anew"
    text = text_of(response)
    assert "compiles the document of revision 1 to other rules" in text
    assert "-A LB-S-web:10.0.0.3-80 -p tcp -j DNAT --to-destination 10.0.0.3:80" in text


def test_an_override_is_refused_on_the_page_in_plain_words(site: Site, old: Revision, login: Login) -> None:
    service = site.cluster.services.get()
    press = {"endpoint": "10.0.0.3:80", "do": "draining", "reason": "It smokes."}
    response = login(site.operator).post(f"/balancer/service/{service.pk}/operate/", press, follow=True)
    assert "Bring the rules up to date: choose “Compile it anew”" in text_of(response)
