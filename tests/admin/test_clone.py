"""A copy of a service, and the form of a service that somebody else has changed or taken out."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.models import Change, Draft, Service
from balancer.workflow.drafts import delete_service, save_draft
from balancer.workflow.editing import choose_change, invite_person, open_change
from tests.admin.conftest import Login
from tests.admin.forms import form_of
from tests.admin.reading import text_of
from tests.cast import Site
from tests.documents import backend_data, service_data

ADD = "/balancer/service/add/"


@pytest.fixture
def editor(site: Site, web: Service, login: Login) -> Client:
    return login(site.author)


def clone_of(row: Service) -> str:
    return f"{ADD}?clone={row.pk}"


def page_of(row: Service) -> str:
    return f"/balancer/service/{row.pk}/change/"


class TestClone:
    def test_the_form_of_a_service_offers_it(self, web: Service, editor: Client) -> None:
        assert f'href="{clone_of(web)}"' in editor.get(page_of(web)).content.decode()

    def test_everything_but_the_name_is_the_same(self, site: Site, editor: Client) -> None:
        backends = [backend_data("10.0.0.3", port=8080, weight=3), backend_data("10.0.0.4", state="draining")]
        site.deploy(service_data("dns", protocol="udp", port=53, scheduler="random", backends=backends))
        original = Service.objects.get(name="dns")

        copy = form_of(editor.get(clone_of(original)))

        mine = form_of(editor.get(page_of(original)))
        assert copy == mine | {"name": "dns-copy", "seen": copy["seen"], "original_name": ""}

    def test_it_says_that_the_place_must_differ_and_saving_as_it_is_says_so_too(
        self, web: Service, editor: Client
    ) -> None:
        response = editor.get(clone_of(web))

        assert "Give the copy a port, an address or an interface of its own" in text_of(response)
        refused = editor.post(clone_of(web), form_of(response))
        assert refused.context["editor"].form.errors["port"]
        assert "Filled in from web" in text_of(refused)

    def test_it_is_saved_like_any_new_service(self, web: Service, editor: Client) -> None:
        editor.post(clone_of(web), form_of(editor.get(clone_of(web))) | {"port": "8080"})

        draft = Draft.objects.get(change__state="draft")
        assert (draft.service_name, draft.action, draft.after["description"]) == (
            "web-copy",
            "create",
            "The shop",
        )

    def test_the_name_is_free_among_what_is_live_and_what_is_proposed(
        self, site: Site, web: Service, editor: Client
    ) -> None:
        site.save("web-copy", port=8080)
        site.save("web-copy-2", port=8081)

        assert form_of(editor.get(clone_of(web)))["name"] == "web-copy-3"

    def test_a_long_name_is_cut(self, site: Site, editor: Client) -> None:
        site.deploy(service_data("x" * 63, port=82))

        name = form_of(editor.get(clone_of(Service.objects.get(name="x" * 63))))["name"]

        assert name == "x" * 58 + "-copy"

    def test_the_copy_is_of_what_the_form_shows(self, site: Site, web: Service, editor: Client) -> None:
        site.save("web", original="web", port=8443)

        assert form_of(editor.get(clone_of(web)))["port"] == "8443"

    def test_a_service_that_is_to_go_can_still_be_copied(
        self, site: Site, web: Service, editor: Client
    ) -> None:
        delete_service(actor=site.author, cluster=site.cluster, name="web")

        assert form_of(editor.get(clone_of(web)))["name"] == "web-copy"

    @pytest.mark.parametrize("key", ["", "999", "x", "%00", "9" * 30])
    def test_a_service_that_is_not_there_is_an_empty_form(self, key: str, editor: Client) -> None:
        response = editor.get(f"{ADD}?clone={key}")

        assert response.status_code == 200
        assert "name" not in form_of(response) or form_of(response)["name"] == ""

    def test_who_may_not_draft_clones_nothing(self, web: Service, login: Login, viewer: User) -> None:
        client = login(viewer)

        assert client.get(clone_of(web)).status_code == 302
        assert "Clone" not in client.get(page_of(web)).content.decode()


@pytest.fixture
def shared(site: Site, web: Service, administrator: User) -> Change:
    """A change in which author and administrator edit."""
    change = open_change(actor=site.author, cluster=site.cluster, title="Shared")
    invite_person(actor=site.author, change=change, username="administrator")
    choose_change(actor=administrator, change=change)
    return change


class TestOvertaken:
    def test_it_says_who_and_shows_both_sides_of_each_field(
        self, site: Site, web: Service, shared: Change, administrator: User, editor: Client
    ) -> None:
        mine = form_of(editor.get(page_of(web))) | {"port": "90", "description": "Mine <b>"}
        theirs = service_data("web", description="Theirs", scheduler="random")
        save_draft(actor=administrator, cluster=site.cluster, data=theirs, original_name="web")

        response = editor.post(page_of(web), mine)

        page = text_of(response)
        assert "administrator changed web on" in page
        assert "Nothing was saved yet." in page
        assert "Description The shop Theirs Mine &lt;b&gt;" in page
        assert "Only administrator changed, in the form too" in page
        assert "Scheduler round-robin random" in page
        again = form_of(response)
        assert (again["port"], again["scheduler"], again["description"]) == ("90", "random", "Mine <b>")

    def test_looked_over_and_saved_again_it_is_saved(
        self, site: Site, web: Service, shared: Change, administrator: User, editor: Client
    ) -> None:
        mine = form_of(editor.get(page_of(web))) | {"port": "90"}
        theirs = service_data("web", description="Theirs")
        save_draft(actor=administrator, cluster=site.cluster, data=theirs, original_name="web")

        editor.post(page_of(web), form_of(editor.post(page_of(web), mine)))

        after = Draft.objects.get(change=shared).after
        assert (after["port"], after["description"]) == (90, "Theirs")

    def test_a_service_that_was_taken_out_can_be_proposed_again(
        self, site: Site, web: Service, shared: Change, administrator: User, editor: Client
    ) -> None:
        mine = form_of(editor.get(page_of(web))) | {"port": "90"}
        delete_service(actor=administrator, cluster=site.cluster, name="web")

        response = editor.post(page_of(web), mine)

        action = f"{ADD}?cluster={site.cluster.pk}&amp;change={shared.pk}"
        assert "administrator took out web on" in text_of(response)
        assert f'action="{action}"' in response.content.decode()
        editor.post(action.replace("&amp;", "&"), form_of(response))
        assert Draft.objects.get(change=shared).after["port"] == 90


def test_the_mark_of_a_critical_service_is_set_in_the_form_and_shown(
    site: Site, web: Service, editor: Client, login: Login, viewer: User
) -> None:
    editor.post(page_of(web), form_of(editor.get(page_of(web))) | {"critical": "on"})

    assert Draft.objects.get(change__state="draft").after["critical"] is True
    Service.objects.update(critical=True)
    for address in (page_of(web), "/balancer/service/"):
        assert "Critical" in text_of(login(viewer).get(address))
