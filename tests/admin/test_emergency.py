"""An emergency on the page of a change: the card, what stands there afterwards, and the signature."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.models import Change, LateReview
from balancer.workflow.submissions import submit_change
from tests.admin.conftest import ROLES, Login, messages_of
from tests.admin.reading import text_of
from tests.cast import Site
from tests.documents import service_data

FIRE = "The front page is down."


@pytest.fixture
def change(site: Site) -> Change:
    site.deploy(service_data("web"))
    return submit_change(actor=site.author, change=site.change(service_data("web", port=81)))


@pytest.fixture
def chief(administrator: User, login: Login) -> Client:
    return login(administrator)


def page_of(change: Change) -> str:
    return f"/balancer/change/{change.pk}/change/"


def declare(client: Client, change: Change, reason: str = FIRE) -> str:
    address = f"/balancer/change/{change.pk}/do/emergency/"
    return text_of(client.post(address, {"emergency": reason}, follow=True))


@pytest.mark.parametrize("person", [role for role in ROLES if role != "stranger"])
def test_the_card_is_there_for_those_with_the_right(
    person: str, change: Change, login: Login, request: pytest.FixtureRequest
) -> None:
    page = text_of(login(request.getfixturevalue(person)).get(page_of(change)))

    assert ("Apply without an approval" in page) is (person == "administrator")


def test_what_was_declared_stands_on_top_of_the_page_until_and_after_it_is_signed(
    site: Site, change: Change, chief: Client, login: Login
) -> None:
    page = declare(chief, change)

    assert "administrator applied this as an emergency on" in page
    assert FIRE in page
    assert "Nobody has signed it yet" in page
    site.finish(change.deployments.get())
    for person in (site.author, site.approver, site.operator):
        assert FIRE in text_of(login(person).get("/"))
    review = LateReview.objects.get()
    login(site.operator).post(f"/balancer/latereview/{review.pk}/sign/", {"comment": "Seen."})
    assert "Signed by operator" in text_of(chief.get(page_of(change)))
    assert FIRE not in text_of(login(site.author).get("/"))


def test_without_a_reason_nothing_is_applied(change: Change, chief: Client) -> None:
    assert "Say what the emergency is" in declare(chief, change, reason=" ")
    assert not change.deployments.exists()


def test_what_was_typed_is_still_there_when_it_is_refused(site: Site, change: Change, chief: Client) -> None:
    site.start(service_data("dns", protocol="udp", port=53))

    response = chief.post(f"/balancer/change/{change.pk}/do/emergency/", {"emergency": FIRE})

    assert "is being applied" in messages_of(response)
    assert FIRE in response.content.decode()
    assert '<details class="lb-more" open>' in response.content.decode()


def test_it_is_red_in_the_history(change: Change, chief: Client) -> None:
    declare(chief, change)

    page = chief.get(page_of(change)).content.decode()

    assert "applied it as an emergency" in page
