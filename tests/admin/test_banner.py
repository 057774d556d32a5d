"""Where edits go: the line on every page, the page on which a change is chosen, and the way out."""

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from balancer.models import AuditEvent, Change, EditedChange, Service
from balancer.workflow import editing
from balancer.workflow.clusters import create_cluster
from balancer.workflow.submissions import submit_change
from tests.admin.addresses import address_of, names
from tests.admin.conftest import Login, messages_of
from tests.cast import Site

EDITING = "/balancer/service/editing/"
LINE = "You are editing in"


def leave(cluster_id: int) -> str:
    return f"{EDITING}{cluster_id}/leave/"


@pytest.fixture
def summer(site: Site, web: Service) -> Change:
    """A draft change with one draft in it, in which the author edits."""
    change = site.change(title="Summer <sale> & \N{BEACH WITH UMBRELLA}")
    site.save("web", original="web", port=81)
    return change


def test_every_page_says_where_edits_go(site: Site, summer: Change, login: Login, superuser: User) -> None:
    editing.invite_person(actor=site.author, change=summer, username="superuser")
    editing.choose_change(actor=superuser, change=summer)
    client = login(superuser)
    pages = ["index", "password_change", "auth_user_changelist", "auth_user_add", "auth_group_change"]
    pages += ["balancer_service_changelist", "balancer_service_change", "balancer_service_add"]
    pages += ["balancer_cluster_edit", "balancer_auditevent_changelist", "balancer_change_change"]
    assert set(pages) <= set(names())

    without = [name for name in pages if LINE not in client.get(address_of(name)).content.decode()]

    assert without == []


def test_the_line_names_the_change_its_cluster_and_its_size(site: Site, summer: Change, login: Login) -> None:
    page = login(site.author).get("/").content.decode()

    assert f"change #{summer.pk} “Summer &lt;sale&gt; &amp; \N{BEACH WITH UMBRELLA}”" in page
    assert "· edge · 1 draft<" in page
    assert 'aria-label="Where your edits go"' in page


def test_there_is_a_line_for_each_cluster(site: Site, summer: Change, login: Login) -> None:
    west = create_cluster(actor=None, name="west")
    editing.open_change(actor=site.author, cluster=west, title="Elsewhere")

    page = login(site.author).get("/").content.decode()

    assert page.count(LINE) == 2
    assert page.index("Summer") < page.index("Elsewhere")


@pytest.mark.parametrize("person", ["viewer", "approver", "operator", "stranger", "administrator"])
def test_others_see_no_line(
    person: str, summer: Change, login: Login, request: pytest.FixtureRequest
) -> None:
    assert LINE not in login(request.getfixturevalue(person)).get("/").content.decode()


def test_who_may_no_longer_draft_sees_no_line(site: Site, summer: Change, login: Login) -> None:
    site.author.groups.clear()

    assert LINE not in login(site.author).get("/").content.decode()


def test_a_change_that_was_handed_in_is_no_longer_edited_in(site: Site, summer: Change, login: Login) -> None:
    submit_change(actor=site.author, change=summer)

    assert LINE not in login(site.author).get("/").content.decode()


def test_the_line_costs_one_query_and_nobody_pays_for_it_who_has_none(
    site: Site, summer: Change, login: Login, viewer: User
) -> None:
    def asked(client: Client, address: str) -> int:
        client.get(address)
        with CaptureQueriesContext(
            connection,
        ) as found:
            client.get(address)
        return sum('"balancer_editedchange"' in query["sql"] for query in found.captured_queries)

    assert asked(login(site.author), "/") == 1
    assert asked(login(viewer), "/") == 0
    assert asked(Client(), "/login/") == 0


def test_without_a_choice_only_the_list_of_services_has_a_quiet_word(
    site: Site, web: Service, login: Login
) -> None:
    editing.leave_change(actor=site.author, cluster=site.cluster)
    client = login(site.author)

    assert "opens a change of its own" in client.get("/balancer/service/").content.decode()
    assert "opens a change of its own" not in client.get("/").content.decode()


def test_stopping_leads_back_to_the_page_and_keeps_the_change(
    site: Site, summer: Change, login: Login
) -> None:
    client = login(site.author)

    response = client.post(leave(site.cluster.pk), {"next": "/balancer/node/?q=lb"})

    assert response.headers["Location"] == "/balancer/node/?q=lb"
    assert not EditedChange.objects.filter(user=site.author).exists()
    assert Change.objects.get(pk=summer.pk).drafts.count() == 1


@pytest.mark.parametrize(
    "elsewhere", ["https://example.org/", "//example.org", "javascript:alert(1)", "", "\\\\x"]
)
def test_stopping_never_leads_to_another_site(
    elsewhere: str, site: Site, summer: Change, login: Login
) -> None:
    response = login(site.author).post(leave(site.cluster.pk), {"next": elsewhere})

    assert response.headers["Location"] == "/"


def test_stopping_needs_a_post_from_our_own_page(site: Site, summer: Change) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(site.author)

    assert client.get(leave(site.cluster.pk)).status_code == 405
    assert client.post(leave(site.cluster.pk)).status_code == 403
    assert EditedChange.objects.filter(user=site.author).exists()


def test_a_change_is_opened_by_its_title(site: Site, web: Service, login: Login) -> None:
    title = ' "Quotes"   and \N{ROCKET} '

    response = login(site.author).post(EDITING, {"cluster": site.cluster.pk, "title": title}, follow=True)

    change = editing.find_current_change(actor=site.author, cluster=site.cluster)
    assert change is not None
    assert change.title == '"Quotes" and \N{ROCKET}'
    assert f"Change #{change.pk} is open" in messages_of(response)


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("", "Give the new change a title"),
        ("   ", "Give the new change a title"),
        ("x" * 201, "at most 200"),
        ("a\0b", "Null"),
    ],
)
def test_a_title_that_is_none_opens_nothing_and_stays_in_the_form(
    title: str, said: str, site: Site, login: Login
) -> None:
    response = login(site.author).post(EDITING, {"cluster": site.cluster.pk, "title": title})

    assert said in response.content.decode()
    assert response.context["clusters"][0]["form"]["title"].value() == title
    assert not Change.objects.exists()


@pytest.mark.parametrize("cluster", ["", "999", "x", "9" * 5000])
def test_a_cluster_that_is_not_there_opens_nothing(cluster: str, site: Site, login: Login) -> None:
    response = login(site.author).post(EDITING, {"cluster": cluster, "title": "Mine"})

    assert response.status_code == 200
    assert not Change.objects.exists()


def test_only_changes_that_one_may_edit_are_offered(
    site: Site, summer: Change, login: Login, administrator: User
) -> None:
    theirs = editing.open_change(actor=administrator, cluster=site.cluster, title="Not for others")
    shared = editing.open_change(actor=administrator, cluster=site.cluster, title="For us both")
    editing.invite_person(actor=administrator, change=shared, username="author")

    offered = login(site.author).get(EDITING).context["clusters"][0]["changes"]

    assert [(change.pk, current) for change, _, current in offered] == [(shared.pk, False), (summer.pk, True)]
    assert theirs.pk not in [change.pk for change, _, _ in offered]


def test_a_choice_moves_the_next_edit(site: Site, summer: Change, login: Login) -> None:
    other = editing.open_change(actor=site.author, cluster=site.cluster, title="Other")
    client = login(site.author)

    client.post(f"/balancer/change/{summer.pk}/do/choose/")

    assert editing.find_current_change(actor=site.author, cluster=site.cluster) == summer
    assert other.pk != summer.pk


def test_who_may_not_draft_opens_and_leaves_nothing(site: Site, login: Login, viewer: User) -> None:
    client = login(viewer)

    opened = client.post(EDITING, {"cluster": site.cluster.pk, "title": "Mine"}, follow=True)
    left = client.post(leave(site.cluster.pk), follow=True)

    assert "may not draft" in messages_of(opened)
    assert "may not draft" in messages_of(left)
    assert not Change.objects.exists()
    assert not AuditEvent.objects.filter(action="change.opened").exists()
