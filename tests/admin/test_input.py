"""Where rules of INPUT become a draft: what is added, what is left out and why, and the ways to that page."""

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.domain.observation import InputRule
from balancer.models import Change, Node
from tests.admin.conftest import Login, messages_of
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.test_input_drafts import drop, see

LIMITED = InputRule(
    text='-A INPUT -m comment --comment "<b>" -m limit --limit 3/min -j DROP',
    chain="INPUT",
    verdict="DROP",
    exact=False,
    unread=("a rate limit",),
)


@pytest.fixture
def web(site: Site) -> Site:
    site.deploy(service_data("web"))
    see(drop("203.0.113.0/24"), LIMITED)
    return site


def address_of(site: Site, **query: object) -> str:
    words = "&".join(f"{key}={value}" for key, value in ({"name": "web"} | query).items())
    return f"/balancer/service/input/{site.cluster.pk}/?{words}"


def fields_of(page: str) -> dict[str, str]:
    form = page.split('<form method="post" action="/balancer/service/input/')[1].split("</form>")[0]
    return dict(re.findall(r'name="(name|node|token|change)" value="([^"]*)"', form))


def save(client: Client, site: Site, **query: object) -> object:
    page = client.get(address_of(site, **query)).content.decode()
    return client.post(f"/balancer/service/input/{site.cluster.pk}/", fields_of(page), follow=True)


def test_it_shows_exactly_what_is_added_and_what_is_left_out(web: Site, login: Login, author: User) -> None:
    page = login(author).get(address_of(web)).content.decode()
    assert "<div>203.0.113.0/24</div>" in page
    assert "-A INPUT -s 203.0.113.0/24 -j DROP" in page
    assert "Denies 203.0.113.0/24." in page
    assert "&lt;b&gt;" in page
    assert "Left out: it asks for a rate limit." in page
    assert "Nobody has read the rules of lb2 yet" in page
    assert "Draft this in a new change" in page


def test_it_is_drafted_in_a_new_change_or_in_the_chosen_one(web: Site, login: Login, author: User) -> None:
    client = login(author)
    response = save(client, web)
    assert "The access lists of web are drafted in change" in messages_of(response)
    assert "203.0.113.0/24" in response.content.decode()
    Change.objects.filter(state="draft").get().drafts.all().delete()

    chosen = web.change(service_data("web", description="edited"))
    save(client, web, change=chosen.pk)
    assert chosen.drafts.get().after["access"]["deny"] == ["203.0.113.0/24"]

    save(client, web, change="new")
    assert Change.objects.filter(state="draft").count() == 3


def test_what_moved_meanwhile_is_shown_again(web: Site, login: Login, author: User) -> None:
    client = login(author)
    fields = fields_of(client.get(address_of(web)).content.decode())
    see(drop("192.0.2.0/24"))
    response = client.post(f"/balancer/service/input/{web.cluster.pk}/", fields)
    assert "is not what you saw any more" in messages_of(response)
    assert "<div>192.0.2.0/24</div>" in response.content.decode()


@pytest.mark.parametrize("query", [{"name": "none"}, {"name": ""}, {"name": "%00"}, {"change": "x"}])
def test_an_address_that_leads_nowhere_is_answered(
    query: dict[str, str], web: Site, login: Login, author: User
) -> None:
    assert login(author).get(address_of(web, **query), follow=True).status_code == 200


def test_other_pages_lead_here_for_who_may_draft(web: Site, login: Login, author: User, viewer: User) -> None:
    service, node = web.cluster.services.get(), Node.objects.get(name="lb1")
    change = web.change(service_data("web", description="edited"))
    pages = (
        f"/balancer/service/{service.pk}/change/",
        f"/balancer/node/{node.pk}/change/",
        f"/balancer/change/{change.pk}/change/",
    )
    for page in pages:
        for person, leads in ((author, True), (viewer, False)):
            text = login(person).get(page).content.decode()
            assert (page, "/balancer/service/input/" in text) == (page, leads)


def test_nodes_that_say_the_same_are_one_card(web: Site, login: Login, author: User) -> None:
    Node.objects.filter(name="lb2").update(observation=Node.objects.get(name="lb1").observation)
    page = login(author).get(address_of(web)).content.decode()
    assert "lb1, lb2</h2>" in page
    assert page.count("Draft this in") == 1
