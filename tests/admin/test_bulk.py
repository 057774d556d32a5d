"""Several services at once: what is chosen is edited, what was shown is saved, all of it or nothing."""

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.admin.bulk_form import value_names
from balancer.models import Change, Service
from balancer.workflow import editing
from balancer.workflow.bulk import FIELDS
from balancer.workflow.clusters import create_cluster
from balancer.workflow.drafts import delete_service
from tests.admin.conftest import Login, messages_of
from tests.admin.reading import drafts, text_of
from tests.admin.rows import make_rows
from tests.cast import Site
from tests.documents import backend_data, service_data

BULK = "/balancer/service/several/"


@pytest.fixture
def three(site: Site) -> Site:
    """web and api with the backend 10.0.0.3:80, dns without it."""
    site.deploy(
        service_data("web"),
        service_data("api", port=81, backends=[backend_data("10.0.0.3", port=80, weight=2)]),
        service_data("dns", protocol="udp", port=53, interface="eth1"),
    )
    return site


@pytest.fixture
def editor(three: Site, login: Login) -> Client:
    return login(three.author)


def fields_of(three: Site, names: str = "api dns web", **changed: str) -> dict[str, str]:
    """What the page sends to give the services the scheduler `random`, but for what is changed."""
    fields = {
        "cluster": str(three.cluster.pk),
        "names": names,
        "field": "scheduler",
        "value_scheduler": "random",
    }
    return fields | {"do": "preview", **changed}


def save(client: Client, fields: dict[str, str]) -> object:
    """As a person does it: look at the preview, then save."""
    seen = client.post(BULK, fields)
    assert seen.context["plan"] is not None, seen.content.decode()
    return client.post(BULK, fields | {"do": "save", "previewed": seen.context["plan"].token}, follow=True)


class TestChoosing:
    def test_ticks_are_for_those_who_may_draft(self, three: Site, login: Login, viewer: User) -> None:
        mine, theirs = (
            login(person).get("/balancer/service/").content.decode() for person in (three.author, viewer)
        )

        assert mine.count('name="id"') == 3
        assert 'aria-label="Choose web"' in mine
        assert 'name="id"' not in theirs
        assert "Edit all" not in theirs

    def test_the_chosen_services_are_on_the_page(self, editor: Client) -> None:
        keys = Service.objects.filter(name__in=["web", "dns"]).values_list("pk", flat=True)

        response = editor.get(BULK, {"id": list(keys)})

        assert response.context["names"] == ("dns", "web")
        assert response.context["form"]["names"].value() == "dns web"

    def test_all_that_the_filter_shows_are_chosen(self, editor: Client) -> None:
        page = editor.get("/balancer/service/", {"protocol__exact": "tcp"}).content.decode()
        link = re.search(r'href="(/balancer/service/several/\?filter=[^"]+)"', page)

        assert link is not None
        assert editor.get(link[1]).context["names"] == ("api", "web")

    def test_a_search_chooses_too_and_other_pages_of_the_list_with_it(
        self, three: Site, editor: Client
    ) -> None:
        make_rows(three.cluster, 120)

        assert len(editor.get(BULK, {"filter": "?q=s0&p=2"}).context["names"]) == 120

    @pytest.mark.parametrize(
        "query",
        [{}, {"id": ""}, {"id": "999"}, {"id": "x"}, {"id": "9" * 5000}, {"filter": "?q=nothing-like-it"}],
    )
    def test_who_chose_nothing_is_told_so(self, query: dict[str, str], editor: Client) -> None:
        response = editor.get(BULK, query, follow=True)

        assert "Choose at least one service" in messages_of(response)

    @pytest.mark.parametrize(
        "query", ["?nonsense__x=1", "?o=99.x", "?p=-1", "?q=%00", "%", "?enabled__exact=maybe"]
    )
    def test_a_filter_that_makes_no_sense_is_answered(self, query: str, editor: Client) -> None:
        assert editor.get(BULK, {"filter": query}, follow=True).status_code in {200, 400}

    def test_more_than_a_thousand_are_too_many(self, three: Site, editor: Client) -> None:
        make_rows(three.cluster, 998)
        too_many = editor.get(BULK, {"filter": "?"}, follow=True)
        Service.objects.filter(name="s00000").delete()

        assert "At most 1,000 services" in messages_of(too_many)
        assert len(editor.get(BULK, {"filter": "?"}).context["names"]) == 1000

    def test_a_thousand_and_one_names_that_are_sent_are_too_many(self, three: Site, editor: Client) -> None:
        names = " ".join(f"s{number}" for number in range(1001))

        response = editor.post(BULK, fields_of(three, names), follow=True)

        assert "At most 1,000 services" in messages_of(response)

    def test_services_of_two_clusters_are_not_edited_together(self, three: Site, editor: Client) -> None:
        make_rows(create_cluster(actor=None, name="west"), 1)

        response = editor.get(BULK, {"filter": ""}, follow=True)

        assert "belong to the clusters edge, west" in messages_of(response)

    def test_who_may_not_draft_gets_no_form(self, three: Site, login: Login, viewer: User) -> None:
        client = login(viewer)

        for response in (
            client.get(BULK, {"filter": ""}, follow=True),
            client.post(BULK, fields_of(three), follow=True),
        ):
            assert "may not draft" in messages_of(response)


class TestSaving:
    def test_a_preview_shows_before_and_after_and_saves_nothing(self, three: Site, editor: Client) -> None:
        response = editor.post(BULK, fields_of(three))

        assert text_of(response).count("Scheduler: round-robin → becomes random") == 3
        assert "3 modified" in text_of(response)
        assert drafts() == {}
        assert Change.objects.count() == 1  # that which brought the services live

    def test_what_was_shown_is_saved_as_drafts_of_one_change(self, three: Site, editor: Client) -> None:
        response = save(editor, fields_of(three))

        change = editing.find_current_change(actor=three.author, cluster=three.cluster)
        assert "3 services saved as drafts" in messages_of(response)
        assert change is not None
        assert change.drafts.count() == 3
        assert {name: data["scheduler"] for name, data in drafts().items()} == dict.fromkeys(
            ("api", "dns", "web"), "random"
        )

    @pytest.mark.parametrize(
        ("field", "sent", "path", "value"),
        [
            ("enabled", {"value_enabled": "no"}, ("enabled",), False),
            ("critical", {"value_critical": "yes"}, ("critical",), True),
            ("interface", {"value_interface": "bond0.100"}, ("interface",), "bond0.100"),
            ("scheduler", {"value_scheduler": "random"}, ("scheduler",), "random"),
            ("source_nat.mode", {"value_source_nat_mode": "none"}, ("source_nat", "mode"), "none"),
            ("access.drop_invalid", {"value_access_drop_invalid": "no"}, ("access", "drop_invalid"), False),
            (
                "description",
                {"value_description": '"It\'s"\r\n<b>\N{ROCKET}</b>'},
                ("description",),
                '"It\'s"\n<b>\N{ROCKET}</b>',
            ),
            ("backends.state", {"value_backends_state": "draining"}, ("backends", 0, "state"), "draining"),
            ("backends.weight", {"value_backends_weight": "7"}, ("backends", 0, "weight"), 7),
        ],
    )
    def test_each_field_can_be_set(
        self, field: str, sent: dict[str, str], path: tuple, value: object, three: Site, editor: Client
    ) -> None:
        assert field in FIELDS
        save(editor, fields_of(three, "api web", field=field, backend="10.0.0.3:80", **sent))

        found = drafts()
        assert set(found) == {"api", "web"}
        for data in found.values():
            for key in path:
                data = data[key]
            assert data == value

    def test_every_field_of_the_workflow_has_a_control(self, editor: Client) -> None:
        page = editor.get(BULK, {"filter": ""}).content.decode()

        for field in FIELDS:
            for name in value_names(field):
                assert f'name="{name}"' in page

    def test_lists_limits_and_checks_are_edited_in_parts_and_the_rest_is_left_as_it_is(
        self, three: Site, editor: Client, subtests: pytest.Subtests
    ) -> None:
        three.deploy(
            service_data("web", access={"deny": ["192.0.2.0/24", "198.51.100.7"]}, health={"kind": "http"})
        )
        edits = {
            "access.deny": {"deny_add": "203.0.113.0/24\r\n", "deny_remove": "198.51.100.7"},
            "access.allow": {"allow_add": "0.0.0.0/0"},
            "access.limits": {
                "limits_new_per_second_per_source": "9",
                "limits_connections_per_source": "none",
            },
            "access.log_refused": {"log_refused": "yes"},
            "health": {"kind": "tcp", "interval": "9", "fall": "4"},
        }
        for field, values in edits.items():
            with subtests.test(field):
                prefix = f"value_{field.partition('.')[0]}_"
                sent = {f"{prefix}{name}": value for name, value in values.items()}
                save(editor, fields_of(three, "web", field=field, **sent))

        web = drafts()["web"]
        assert web["access"] == {
            "deny": ["192.0.2.0/24", "203.0.113.0/24"],
            "allow": ["0.0.0.0/0"],
            "new_per_second_per_source": 9,
            "connections_per_source": None,
            "drop_invalid": True,
            "log_refused": True,
        }
        wanted = {"kind": "tcp", "interval": 9, "fall": 4, "rise": 2, "timeout": 2}
        assert web["health"].items() >= wanted.items()

    def test_services_without_the_backend_stay_as_they_are(self, three: Site, editor: Client) -> None:
        save(
            editor,
            fields_of(three, field="backends.weight", backend="10.0.0.3:80", value_backends_weight="7"),
        )

        assert set(drafts()) == {"api", "web"}

    def test_an_edit_goes_on_from_the_draft_that_is_there(self, three: Site, editor: Client) -> None:
        three.save("web", original="web", port=8080)

        save(editor, fields_of(three))

        assert (drafts()["web"]["port"], drafts()["web"]["scheduler"]) == (8080, "random")

    def test_nothing_is_saved_that_was_not_shown(self, three: Site, editor: Client) -> None:
        token = editor.post(BULK, fields_of(three)).context["plan"].token
        other = fields_of(three, field="enabled", value_enabled="no", do="save", previewed=token)

        response = editor.post(BULK, other)

        assert "not what the last preview showed" in text_of(response)
        assert drafts() == {}

    def test_nothing_is_saved_where_a_service_moved_since_the_preview(
        self, three: Site, editor: Client
    ) -> None:
        token = editor.post(BULK, fields_of(three)).context["plan"].token
        three.save("web", original="web", port=8080)

        response = editor.post(BULK, fields_of(three, do="save", previewed=token))

        assert "not what the last preview showed" in text_of(response)
        assert drafts()["web"]["scheduler"] == "round-robin"


BAD = [
    ("names", "", "Choose at least one service"),
    ("names", "web nothing", "There is no service named nothing"),
    ("names", "web <b>", "There is no service named &lt;b&gt;"),
    ("cluster", "999", "Choose at least one service"),
    ("cluster", "x", "Choose at least one service"),
    ("field", "backends.port", "There is no such field"),
    ("field", "", "This field is required"),
    ("value_scheduler", "fastest", "Select a valid choice"),
    ("value_scheduler", "", "Scheduler must be one of"),
    ("value_scheduler", "round-robin", "live or proposed already"),
]
WEIGHTS = ["0", "-1", "1000000000", "257", "", "1.5", "one", "9" * 5000, "\N{ARABIC-INDIC DIGIT SEVEN}"]


class TestBadInput:
    @pytest.mark.parametrize("do", ["preview", "save"])
    def test_it_is_answered_with_a_sentence_and_changes_nothing(
        self, do: str, three: Site, editor: Client, subtests: pytest.Subtests
    ) -> None:
        for field, value, said in BAD:
            with subtests.test(said, field=field, value=value):
                response = editor.post(BULK, fields_of(three, do=do, **{field: value}), follow=True)

                assert response.status_code == 200
                assert said in response.content.decode()
                assert drafts() == {}

    def test_a_weight_that_is_none_is_named_with_the_service_and_stays_in_the_form(
        self, three: Site, editor: Client, subtests: pytest.Subtests
    ) -> None:
        order = fields_of(three, field="backends.weight", backend="10.0.0.3:80")
        for weight in WEIGHTS:
            with subtests.test(weight=weight[:20]):
                response = editor.post(BULK, order | {"value_backends_weight": weight})

                text = text_of(response)
                assert "api, backends[0].weight : Weight must be a whole number from 1 to 256" in text
                assert "web, backends[0].weight" in text
                assert response.context["form"]["value_backends_weight"].value() == weight
                assert "Save as drafts" not in text
                assert drafts() == {}

    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            (
                {"add": "203.0.113.0/24\r\n\r\n203.0.113.7/24"},
                "Line 3: &#x27;203.0.113.7/24&#x27; is an address",
            ),
            (
                {"add": "203.0.113.0/24", "remove": "192.0.2.0/24"},
                "Line 1: None of these services has 192.0.2.0/24",
            ),
            (
                {"add": "192.0.2.0/24", "remove": "192.0.2.0/24"},
                "Line 1: 192.0.2.0/24 is to be added as well",
            ),
            ({"add": "2001:db8::/32"}, "2001:db8::/32 is an IPv6 network, but the service is IPv4"),
            ({}, "All of it is to be left as it is."),
        ],
    )
    def test_a_mistake_in_a_list_is_told_at_its_line_and_changes_nothing(
        self, sent: dict[str, str], said: str, three: Site, editor: Client
    ) -> None:
        values = {f"value_access_deny_{part}": text for part, text in sent.items()}

        for do in ("preview", "save"):
            response = editor.post(BULK, fields_of(three, field="access.deny", do=do, **values))

            assert said in response.content.decode()
            assert "Save as drafts" not in text_of(response)
            assert drafts() == {}

    @pytest.mark.parametrize(
        ("field", "sent", "said"),
        [
            ("access.limits", {"connections_per_source": "0"}, "whole number from 1 to 1000000"),
            (
                "access.limits",
                {"new_burst": "9"},
                "A burst belongs to a number of new connections per second",
            ),
            ("access.limits", {}, "All of it is to be left as it is."),
            ("health", {"interval": "9"}, "Without health checks nothing uses interval"),
            ("health", {"kind": "tcp", "interval": "1"}, "Timeout must not be longer than the interval"),
            ("health", {"kind": "tcp", "rise": "often"}, "Rise must be a whole number from 1 to 100"),
            ("health", {"kind": "smtp"}, "Select a valid choice"),
            ("health", {"kind": "passive"}, "Passive checks look at TCP connections"),
        ],
    )
    def test_limits_and_checks_are_judged_as_in_the_form_of_a_service(
        self, field: str, sent: dict[str, str], said: str, three: Site, editor: Client
    ) -> None:
        values = {f"value_{field.replace('.', '_')}_{part}": text for part, text in sent.items()}

        response = editor.post(BULK, fields_of(three, field=field, do="save", **values))

        assert said in response.content.decode()
        assert drafts() == {}

    def test_a_backend_that_nobody_has_is_said(
        self, three: Site, editor: Client, subtests: pytest.Subtests
    ) -> None:
        order = fields_of(three, "dns", field="backends.weight", value_backends_weight="2")
        for backend in ("", "10.0.0.3", "10.0.0.99:80", "x'\"<>", "10.0.0.3:80 "):
            with subtests.test(backend=backend):
                response = editor.post(BULK, order | {"backend": backend})

                assert "None of these services has the backend" in text_of(response)
                assert drafts() == {}

    def test_one_service_that_becomes_invalid_stops_all(self, three: Site, editor: Client) -> None:
        three.deploy(service_data("dns2", protocol="udp", port=53, interface="eth2"))
        order = fields_of(three, "dns dns2 web", field="interface", value_interface="eth9")

        response = editor.post(BULK, order | {"do": "save"})

        assert "dns2" in text_of(response)
        assert "Nothing was saved" in text_of(response)
        assert response.context["form"]["value_interface"].value() == "eth9"
        assert drafts() == {}

    def test_many_problems_are_counted_and_not_all_listed(self, three: Site, editor: Client) -> None:
        services = [service_data(f"s{i:02}", port=2000 + i) for i in range(30)]
        three.deploy(*services)
        names = " ".join(service["name"] for service in services)

        response = editor.post(BULK, fields_of(three, names, field="interface", value_interface="no such"))

        assert response.context["plan"].more_problems == 10
        assert "and 10 more." in text_of(response)

    def test_a_service_that_is_to_go_is_not_edited(self, three: Site, editor: Client) -> None:
        delete_service(actor=three.author, cluster=three.cluster, name="web")

        response = editor.post(BULK, fields_of(three))

        assert "There is no service named web any more" in text_of(response)

    def test_a_post_from_another_site_is_refused(self, three: Site) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(three.author)

        assert client.post(BULK, fields_of(three, do="save")).status_code == 403
