"""Lists at a glance, and at the size of a real site."""

import re

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from balancer.models import AuditEvent, Change, Service
from balancer.workflow.submissions import submit_change
from tests.admin.conftest import Login, heavier
from tests.admin.rows import make_rows
from tests.cast import Site, make_person
from tests.documents import backend_data, service_data

SERVICES = "/balancer/service/"


def queries_for(client: object, address: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(address).status_code == 200  # type: ignore[attr-defined]
    return len(captured)


def test_a_service_shows_where_it_listens_and_what_each_backend_gets(
    site: Site, login: Login, viewer: User
) -> None:
    backends = [
        backend_data("10.0.0.3", weight=3),
        backend_data("10.0.0.4"),
        backend_data("10.0.0.5", state="draining"),
    ]
    site.deploy(
        service_data("web", backends=backends),
        service_data(
            "dns", address="203.0.113.1", protocol="udp", port=53, scheduler="random", enabled=False
        ),
        service_data("empty", port=81, backends=[]),
    )

    page = login(viewer).get(SERVICES).content.decode()

    assert "eth0 · any:80/tcp" in page
    assert "eth0 · 203.0.113.1:53/udp" in page
    assert "3/4 · 75\N{NO-BREAK SPACE}%" in page
    assert "1/4 · 25\N{NO-BREAK SPACE}%" in page
    assert page.count("draining") == 2  # once for the eye, once for the ear
    assert "Refuses all" in page
    assert "Disabled" in page


def test_a_service_in_an_open_change_says_so_to_everybody(
    site: Site, submitted: Change, login: Login, viewer: User
) -> None:
    page = login(viewer).get(SERVICES).content.decode()

    assert f"Modified in change #{submitted.pk}" in page


def test_a_new_service_is_shown_to_its_author_alone(site: Site, login: Login, viewer: User) -> None:
    site.save("mail", port=25)

    mine, theirs = (login(user).get(SERVICES).content.decode() for user in (site.author, viewer))

    assert "Not live yet" in mine
    assert "mail" in mine
    assert "mail" not in theirs


def test_services_are_searched_by_name_address_and_backend(site: Site, login: Login, viewer: User) -> None:
    site.deploy(
        service_data("web", backends=[backend_data("10.0.0.3")]),
        service_data("dns", address="203.0.113.1", port=53, backends=[backend_data("10.0.0.9")]),
    )
    client = login(viewer)

    found = {
        q: _names(client.get(SERVICES, {"q": q}).content.decode())
        for q in ("web", "203.0.113", "10.0.0.9", "x")
    }

    assert found == {"web": ["web"], "203.0.113": ["dns"], "10.0.0.9": ["dns"], "x": []}


def test_services_are_filtered(site: Site, login: Login, viewer: User) -> None:
    site.deploy(service_data("web"), service_data("dns", protocol="udp", port=53, enabled=False))
    client = login(viewer)

    assert _names(client.get(SERVICES, {"enabled__exact": "1"}).content.decode()) == ["web"]
    assert _names(client.get(SERVICES, {"protocol__exact": "udp"}).content.decode()) == ["dns"]


def test_a_list_asks_as_much_for_many_services_as_for_few(site: Site, login: Login, viewer: User) -> None:
    client = login(viewer)
    make_rows(site.cluster, 3)
    few = queries_for(client, SERVICES)
    make_rows(site.cluster, 200, prefix="t")

    assert queries_for(client, SERVICES) == few
    assert len(_names(client.get(SERVICES).content.decode())) == 50


@pytest.mark.parametrize(
    "address",
    ["/balancer/change/", "/balancer/revision/", "/balancer/auditevent/", "/balancer/node/", "/auth/user/"],
)
def test_other_lists_ask_as_much_for_many_rows_as_for_few(
    address: str, site: Site, web: Service, login: Login, administrator: User
) -> None:
    client = login(administrator)
    few = queries_for(client, address)
    for number in range(3):
        submit_change(actor=site.author, change=site.change(service_data("web", port=90 + number)))
        site.deploy(service_data(f"more{number}", port=100 + number))
        make_person(f"person{number}", "Viewer", "Editor")

    assert queries_for(client, address) == few


def test_the_dashboard_shows_each_person_what_waits_for_them(
    site: Site, web: Service, login: Login, viewer: User
) -> None:
    draft = site.change(heavier(), title="Unfinished")
    review = submit_change(
        actor=site.author, change=site.change(service_data("web", port=81), title="To be read")
    )
    approved = site.approved(service_data("web", port=82), title="To be applied")

    def trays(user: User) -> dict[str, list[Change]]:
        response = login(user).get("/")
        assert response.status_code == 200
        return {title: [change for change, _ in changes] for title, changes in response.context["trays"]}

    assert trays(site.author) == {"Yours, to finish": [draft]}
    assert trays(site.approver) == {"To review": [review], "To apply": [approved]}
    assert trays(site.operator) == {"To apply": [approved]}
    assert trays(viewer) == {}


def test_the_dashboard_of_an_empty_console_says_what_to_do(login: Login, administrator: User) -> None:
    assert "There is no cluster yet" in login(administrator).get("/").content.decode()


def test_the_history_is_filtered_and_searched(
    site: Site, submitted: Change, login: Login, viewer: User
) -> None:
    client = login(viewer)
    client.post(f"/balancer/change/{submitted.pk}/do/approve/", {"digest": submitted.digest})

    refused = client.get("/balancer/auditevent/", {"action": "refused"}).content.decode()
    nobody = client.get(
        "/balancer/auditevent/", {"actor": "operator", "action": "draft.saved"}
    ).content.decode()

    event = AuditEvent.objects.get(action="change.approved.refused")
    assert f"/balancer/auditevent/{event.pk}/change/" in refused
    assert refused.count("field-show_action") == 1
    assert "field-show_action" not in nobody


def test_nothing_on_a_page_comes_from_elsewhere(site: Site, submitted: Change, login: Login) -> None:
    client = login(site.approver)
    for address in ("/", SERVICES, f"/balancer/change/{submitted.pk}/change/", "/login/"):
        page = client.get(address, follow=True).content.decode()
        loaded = re.findall(r'(?:src|href|action|hx-get|hx-post)="([^"#?][^"]*)"', page)

        assert loaded
        assert [link for link in loaded if re.match(r"(?:[a-z]+:)?//|[a-z]+:", link)] == []


def _names(page: str) -> list[str]:
    return re.findall(r'<a class="lb-plain" href="/balancer/service/\d+/change/">([^<]+)</a>', page)
