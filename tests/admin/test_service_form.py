"""The form of a service: every save is a draft, every mistake is told where it was made, nothing is live."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from balancer.admin.service_form import READ_ROWS, BackendFormSet
from balancer.domain.lifecycle import ChangeState
from balancer.models import AuditEvent, Change, Draft, Service
from balancer.workflow.drafts import save_draft
from balancer.workflow.revisions import live_revision
from tests.admin.conftest import Login, heavier, messages_of
from tests.admin.forms import add_backends, form_of, new_service
from tests.cast import Site

ADD = "/balancer/service/add/"


def edit_address(service: Service) -> str:
    return reverse("admin:balancer_service_change", args=[service.pk])


def rows_of(service: Service) -> list[Any]:
    return [list(Service.objects.values()), list(service.backends.values())]


def test_saving_puts_a_draft_into_the_authors_change_and_leaves_what_is_live(
    site: Site, web: Service, login: Login
) -> None:
    client, before = login(site.author), rows_of(web)
    fields = form_of(client.get(edit_address(web))) | {"backends-0-weight": "3"}

    response = client.post(edit_address(web), fields, follow=True)

    draft = Draft.objects.get(service_name="web", change__state=ChangeState.DRAFT)
    assert [backend["weight"] for backend in draft.after["backends"]] == [3, 1, 1, 1]
    assert draft.change.author == site.author
    assert response.redirect_chain == [(reverse("admin:balancer_change_change", args=[draft.change_id]), 302)]
    assert "Saved as a draft" in messages_of(response)
    assert rows_of(web) == before
    assert live_revision(site.cluster).number == 1


def test_saving_unchanged_proposes_nothing(site: Site, web: Service, login: Login) -> None:
    client = login(site.author)

    response = client.post(edit_address(web), form_of(client.get(edit_address(web))), follow=True)

    assert "nothing to propose" in messages_of(response)
    assert not Draft.objects.filter(change__state=ChangeState.DRAFT).exists()


def test_the_form_shows_the_draft_of_the_current_change_and_says_so(
    site: Site, web: Service, login: Login
) -> None:
    save_draft(actor=site.author, cluster=site.cluster, data=heavier(), original_name="web")

    response = login(site.author).get(edit_address(web))

    assert form_of(response)["backends-0-weight"] == "3"
    assert "You see the draft in" in response.content.decode()


def test_a_colleague_sees_what_is_live(site: Site, web: Service, login: Login, administrator: User) -> None:
    save_draft(actor=site.author, cluster=site.cluster, data=heavier(), original_name="web")

    response = login(administrator).get(edit_address(web))

    assert form_of(response)["backends-0-weight"] == "1"


def test_a_new_service_is_a_draft_and_can_be_edited_before_it_is_live(site: Site, login: Login) -> None:
    client = login(site.author)
    client.post(ADD, new_service())
    draft = Draft.objects.get(service_name="mail")
    address = reverse("admin:balancer_service_draft", args=[draft.pk])

    client.post(address, form_of(client.get(address)) | {"port": "26"})

    draft.refresh_from_db()
    assert draft.after["port"] == 26
    assert not Service.objects.exists()


def test_a_draft_in_review_has_no_form(site: Site, submitted: Change, login: Login) -> None:
    address = reverse("admin:balancer_service_draft", args=[submitted.drafts.get().pk])

    response = login(site.author).get(address, follow=True)

    assert response.redirect_chain == [(reverse("admin:balancer_change_change", args=[submitted.pk]), 302)]
    assert "cannot be edited now" in messages_of(response)


def test_fields_that_the_form_does_not_offer_keep_their_default(site: Site, login: Login) -> None:
    login(site.author).post(ADD, new_service(backends__0__port="", backends__0__weight=""))

    after = Draft.objects.get().after
    assert (after["backends"][0]["port"], after["backends"][0]["weight"]) == (25, 1)
    assert (after["health"]["kind"], after["persistence"]["mode"], after["port_end"]) == (
        "none",
        "none",
        None,
    )


def test_a_removed_row_and_an_empty_row_are_left_out(site: Site, web: Service, login: Login) -> None:
    client = login(site.author)
    fields = form_of(client.get(edit_address(web))) | {
        "backends-1-DELETE": "on",
        "backends-4-address": "",
        "backends-4-port": "",
        "backends-4-weight": "",
        "backends-4-state": "enabled",
        "backends-TOTAL_FORMS": "5",
    }

    client.post(edit_address(web), fields)

    backends = Draft.objects.get(change__state=ChangeState.DRAFT).after["backends"]
    assert [backend["address"] for backend in backends] == ["10.0.0.3", "10.0.0.5", "10.0.0.6"]


BAD_FIELDS = [
    ("port", "0"),
    ("port", "65536"),
    ("port", "http"),
    ("port", "80.5"),
    ("port", "-1"),
    ("port", "9" * 400),
    ("port", ""),
    ("address", "999.1.1.1"),
    ("address", "0.0.0.0"),
    ("address", "224.0.0.1"),
    ("address", "eth0"),
    ("interface", "a" * 16),
    ("interface", "eth 0"),
    ("interface", "../x"),
    ("interface", "$(x)"),
    ("interface", ""),
    ("interface", "eth0\n-j ACCEPT"),
    ("name", "we\nb"),
    ("name", "web\n"),
    ("name", 'we"b'),
    ("name", "wéb"),
    ("name", "w\N{GRINNING FACE}b"),
    ("name", "a" * 64),
    ("name", ""),
    ("name", "we\x00b"),
    ("description", "a" * 1001),
    ("protocol", "igmp"),
    ("scheduler", "fastest"),
    ("source_nat", "auto"),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_bad_value_is_told_at_its_field_and_changes_nothing(
    site: Site, login: Login, field: str, value: str
) -> None:
    before = AuditEvent.objects.count()

    response = login(site.author).post(ADD, new_service(**{field: value}))

    assert response.status_code == 200
    errors = response.context["editor"].form.errors
    assert set(errors) == {field}
    assert_can_act_on(errors[field])
    assert not Change.objects.exists()
    assert AuditEvent.objects.count() == before


BAD_BACKENDS = [
    ("address", "999.1.1.1"),
    ("address", ""),
    ("address", "127.0.0.1"),
    ("address", "2001:db8::3"),
    ("port", "0"),
    ("port", "65536"),
    ("port", "http"),
    ("weight", "0"),
    ("weight", "-1"),
    ("weight", "1000000000"),
    ("weight", "1e9"),
    ("weight", "heavy"),
    ("state", "asleep"),
]


@pytest.mark.parametrize(("field", "value"), BAD_BACKENDS)
def test_a_bad_backend_is_told_in_its_row(site: Site, login: Login, field: str, value: str) -> None:
    fields = new_service(address="203.0.113.1") | {
        "backends-TOTAL_FORMS": "2",
        "backends-1-address": "10.0.0.4",
        "backends-1-port": "80",
        "backends-1-weight": "1",
        "backends-1-state": "enabled",
    }

    response = login(site.author).post(ADD, fields | {f"backends-1-{field}": value})

    rows = response.context["editor"].rows.errors
    assert not rows[0]
    assert set(rows[1]) == {field}
    assert_can_act_on(rows[1][field])
    assert not Draft.objects.exists()


def test_an_ipv6_backend_of_an_ipv4_service_is_told_in_its_row(site: Site, login: Login) -> None:
    fields = new_service(address="203.0.113.1", backends__0__address="2001:db8::3")

    response = login(site.author).post(ADD, fields)

    assert "one family" in str(response.context["editor"].rows.errors[0]["address"])


def test_only_the_field_that_is_wrong_is_marked_in_its_row(site: Site, login: Login) -> None:
    page = login(site.author).post(ADD, new_service(backends__0__address="999.1.1.1")).content.decode()

    assert page.count("lb-errors-in") == 1
    # Unfold paints every input red below an element of the class "errors".
    assert not re.search(r'<tr[^>]*class="[^"]*\berrors\b', page)


def test_a_backend_that_is_the_service_itself_is_told_in_its_row(site: Site, login: Login) -> None:
    fields = new_service(address="203.0.113.1", backends__0__address="203.0.113.1")

    response = login(site.author).post(ADD, fields)

    assert "round in a circle" in str(response.context["editor"].rows.errors[0]["address"])


def test_a_backend_that_is_there_twice_is_told_in_the_second_row(site: Site, login: Login) -> None:
    fields = add_backends(new_service(), 2) | {"backends-1-address": "10.1.0.1"}

    response = login(site.author).post(ADD, fields)

    first, second = response.context["editor"].rows.errors
    assert not first
    assert "already backend number 1" in str(second["address"])


@pytest.mark.parametrize("name", ["mail", "zebra"])
def test_a_place_that_is_taken_is_told_at_the_port(site: Site, web: Service, login: Login, name: str) -> None:
    """Whichever of the two comes first in the document, the error is at the form that makes it."""
    response = login(site.author).post(ADD, new_service(name=name, port="80"))

    assert set(response.context["editor"].form.errors) == {"port"}
    assert_can_act_on(response.context["editor"].form.errors["port"])


def test_a_name_that_is_taken_is_told_at_the_name(site: Site, web: Service, login: Login) -> None:
    response = login(site.author).post(ADD, new_service(name="web"))

    assert "choose another name" in str(response.context["editor"].form.errors["name"])


def test_too_many_backends_are_told_and_kept_in_the_form(site: Site, login: Login) -> None:
    response = login(site.author).post(ADD, add_backends(new_service(), 1025))

    editor = response.context["editor"]
    assert "at most 1024 backends" in " ".join(editor.row_problems)
    assert len(editor.rows.forms) == 1025
    assert not Draft.objects.exists()


def test_more_rows_than_are_read_are_told(site: Site, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    assert READ_ROWS > 1025
    # As many forms as are really read take seconds to draw.
    monkeypatch.setattr(BackendFormSet, "max_num", 1025)
    monkeypatch.setattr(BackendFormSet, "absolute_max", 1025)

    response = login(site.author).post(ADD, add_backends(new_service(), 1026))

    assert "at most 1024 backends" in " ".join(response.context["editor"].row_problems)
    assert not Draft.objects.exists()


def test_as_many_backends_as_are_allowed_are_saved(site: Site, login: Login) -> None:
    login(site.author).post(ADD, add_backends(new_service(), 1024))

    assert len(Draft.objects.get().after["backends"]) == 1024


def test_what_was_typed_is_still_there_after_an_error(site: Site, login: Login) -> None:
    response = login(site.author).post(ADD, new_service(port="http", description="Ask Ann"))

    page = response.content.decode()
    assert 'value="http"' in page
    assert "Ask Ann" in page
    assert 'value="10.0.0.3"' in page


def test_text_of_a_person_is_never_markup(site: Site, login: Login) -> None:
    client = login(site.author)
    client.post(ADD, new_service(description="<script>alert(1)</script>"))

    pages = [client.get(f"/balancer/change/{Draft.objects.get().change_id}/change/"), client.get("/")]

    assert all("<script>alert(1)" not in page.content.decode() for page in pages)


def test_a_service_that_changed_under_the_form_is_not_overwritten(
    site: Site, web: Service, login: Login
) -> None:
    client = login(site.author)
    fields = form_of(client.get(edit_address(web))) | {"port": "81"}
    save_draft(actor=site.author, cluster=site.cluster, data=heavier(), original_name="web")

    response = client.post(edit_address(web), fields)

    assert "changed web on" in response.content.decode()
    assert Draft.objects.get(change__state=ChangeState.DRAFT).after["port"] == 80


def test_deleting_asks_first_and_then_proposes_it(site: Site, web: Service, login: Login) -> None:
    client, address = login(site.author), reverse("admin:balancer_service_delete", args=[web.pk])

    assert "Propose to delete web" in client.get(address).content.decode()
    client.post(address)

    assert Draft.objects.get(change__state=ChangeState.DRAFT).action == Draft.Action.DELETE
    assert Service.objects.filter(name="web").exists()


def test_a_form_that_is_no_form_is_answered_and_not_saved(site: Site, login: Login) -> None:
    response = login(site.author).post(ADD, {"name": "web"})

    assert response.status_code == 200
    assert not Draft.objects.exists()


def test_lists_of_ten_thousand_networks_go_through_the_form_and_come_back(site: Site, login: Login) -> None:
    many = "\n".join(f"10.{i // 250}.{i % 250}.0/24" for i in range(10_000))
    client = login(site.author)
    client.post(ADD, new_service(deny=many, allow=many.replace("10.", "11.", 1)))
    draft = Draft.objects.get()
    page = client.get(reverse("admin:balancer_service_draft", args=[draft.pk]))
    fields = form_of(page)

    assert len(draft.after["access"]["deny"]) == 10_000
    assert fields["deny"] == many
    client.post(
        reverse("admin:balancer_service_draft", args=[draft.pk]), fields | {"deny": f"{many}\n192.0.2.1"}
    )
    draft.refresh_from_db()
    assert draft.after["access"]["deny"][-1] == "192.0.2.1/32"
    assert len(draft.after["access"]["deny"]) == 10_001


class TestPreview:
    def post(self, site: Site, login: Login, fields: dict[str, str]) -> str:
        address = reverse("admin:balancer_service_preview", args=[site.cluster.pk])
        return login(site.author).post(address, fields).content.decode()

    def test_shows_shares_and_rules_and_writes_nothing(self, site: Site, login: Login) -> None:
        text = self.post(site, login, add_backends(new_service(), 3) | {"backends-0-weight": "2"})

        assert "1/2 · 50\N{NO-BREAK SPACE}%" in text
        assert text.count("1/4 · 25\N{NO-BREAK SPACE}%") == 2
        assert "--to-destination 10.1.0.1:25" in text
        assert not Change.objects.exists()

    def test_shows_what_is_wrong(self, site: Site, login: Login) -> None:
        text = self.post(site, login, new_service(port="http"))

        assert "Port must be a whole number from 1 to 65535" in text

    def test_of_a_list_it_names_the_line_and_the_entry(self, site: Site, login: Login) -> None:
        text = self.post(site, login, new_service(deny="198.51.100.0/24\r\n\r\n203.0.113.7/24"))

        assert "Deny list, line 3: &#x27;203.0.113.7/24&#x27; is an address inside of a network" in text

    def test_a_form_that_is_not_filled_in_yet_is_no_mistake(self, site: Site, login: Login) -> None:
        text = self.post(
            site, login, new_service(name="", port="", backends__0__address="", backends__0__weight="1")
        )

        assert "Still to fill in: name, port, address of a backend." in text
        assert "lb-note--bad" not in text

    def test_shows_what_is_live_beside_what_would_be(self, site: Site, web: Service, login: Login) -> None:
        fields = form_of(login(site.author).get(edit_address(web))) | {"backends-0-weight": "3"}

        text = self.post(site, login, fields)

        assert "1/4 · 25\N{NO-BREAK SPACE}%" in text
        assert "1/2 · 50\N{NO-BREAK SPACE}%" in text

    def test_survives_anything(self, site: Site, login: Login) -> None:
        no_number = new_service(backends__TOTAL_FORMS="x")
        wrong_name = new_service(name="w b")

        for fields in ({}, {"name": "x"}, no_number, wrong_name):
            assert "lb-note--bad" in self.post(site, login, fields)
        assert "lb-shares" in self.post(site, login, new_service(change="x" * 50))


def assert_can_act_on(errors: Any) -> None:
    """One whole sentence that says more than that it is wrong."""
    (message,) = errors
    assert message.endswith(".")
    assert len(message.split()) >= 4
