"""IPv6 services in the console: typed in, seen, operated."""

from django.contrib.auth.models import User

from balancer.models import Draft, Override, Service
from tests.admin.conftest import Login, messages_of
from tests.admin.forms import new_service
from tests.cast import Site
from tests.documents import backend_data, service_data

BACKENDS = [backend_data(f"2001:db8::{last}", weight=10) for last in (3, 4)]


def test_an_ipv6_service_is_saved_as_a_draft_in_the_shortest_spelling(site: Site, login: Login) -> None:
    fields = new_service(address="2001:DB8:0:0::1", backends__0__address="2001:db8::0003")
    login(site.author).post("/balancer/service/add/", fields, follow=True)
    after = Draft.objects.get(service_name="mail").after
    assert (after["address"], after["backends"][0]["address"]) == ("2001:db8::1", "2001:db8::3")


def test_a_link_local_address_is_told_at_its_field(site: Site, login: Login) -> None:
    fields = new_service(address="fe80::1", backends__0__address="2001:db8::3")
    page = login(site.author).post("/balancer/service/add/", fields).content.decode()
    assert "fe80::1 is link-local" in page
    assert not Draft.objects.exists()


def test_its_pages_show_it_and_a_backend_is_drained_with_one_click(
    site: Site, login: Login, viewer: User, operator: User
) -> None:
    revision = site.deploy(service_data("web", port=81), service_data("web6", backends=BACKENDS))
    row = Service.objects.get(name="web6")
    assert "[2001:db8::3]:80" in login(viewer).get(f"/balancer/service/{row.pk}/change/").content.decode()
    page = login(viewer).get(f"/balancer/revision/{revision.pk}/change/").content.decode()
    assert "--to-destination [2001:db8::3]:80" in page

    data = {"endpoint": "[2001:db8::3]:80", "do": "draining", "reason": "disk is full"}
    response = login(operator).post(f"/balancer/service/{row.pk}/operate/", data, follow=True)

    assert "[2001:db8::3]:80: drained." in messages_of(response)
    assert Override.objects.get().address == "2001:db8::3"
