"""The page of a change: what it shows, the buttons that are there, and why others are not."""

import re

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.kernel.base import Rejected
from balancer.models import AuditEvent, Change, Draft, Revision, Service
from balancer.workflow.approvals import approve_change
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import save_draft
from balancer.workflow.editing import invite_person
from balancer.workflow.submissions import submit_change
from tests.admin.conftest import Login, heavier, messages_of
from tests.cast import Site, make_person
from tests.documents import service_data


def page_of(change: Change) -> str:
    return reverse("admin:balancer_change_change", args=[change.pk])


def do(change: Change, deed: str) -> str:
    return reverse("admin:balancer_change_do", args=[change.pk, deed])


def buttons_in(page: str) -> set[str]:
    """The deeds that the page has a button for; of drafts only that there is one."""
    found = set(re.findall(r'action="/balancer/change/\d+/(?:do/)?([a-z-]+)/"', page))
    return found - {"comment", *OF_EVERY_PAGE}


def in_state(site: Site, state: str) -> Change:
    change = site.change(heavier(), title="More for the first")
    if state == "draft":
        return change
    change = submit_change(actor=site.author, change=change)
    if state == "submitted":
        return change
    change = approve_change(
        actor=site.approver, change=change, digest=change.digest, password_at=timezone.now()
    )
    if state == "approved":
        return change
    apply_change(actor=site.operator, change=change)
    change.refresh_from_db()
    return change


OF_EVERY_PAGE: set[str] = set()
"""Buttons that are there whatever the change is, see the banner."""
BUTTONS = {
    ("draft", "author"): {"submit", "discard", "describe", "drop-draft", "invite"},
    ("draft", "viewer"): set(),
    ("draft", "approver"): set(),
    ("draft", "operator"): set(),
    ("draft", "administrator"): {"discard"},
    ("submitted", "author"): {"withdraw", "invite"},
    ("submitted", "viewer"): set(),
    ("submitted", "approver"): {"approve", "reject", "request-changes"},
    ("submitted", "operator"): set(),
    ("submitted", "administrator"): {"approve", "reject", "request-changes", "withdraw", "emergency"},
    ("approved", "author"): {"withdraw", "invite"},
    ("approved", "viewer"): set(),
    ("approved", "approver"): {"reject", "request-changes", "apply", "schedule"},
    ("approved", "operator"): {"apply", "schedule"},
    ("approved", "administrator"): {
        *("reject", "request-changes", "apply", "schedule", "withdraw", "emergency"),
    },
    ("applying", "author"): {"invite"},
    ("applying", "viewer"): set(),
    ("applying", "operator"): {"cancel"},
    ("applying", "administrator"): {"cancel"},
}


@pytest.mark.parametrize("state", sorted({state for state, _ in BUTTONS}))
def test_the_buttons_are_those_that_the_person_can_use(
    state: str,
    site: Site,
    web: Service,
    login: Login,
    request: pytest.FixtureRequest,
    subtests: pytest.Subtests,
) -> None:
    change = in_state(site, state)
    for person in (person for at, person in BUTTONS if at == state):
        with subtests.test(person):
            page = login(request.getfixturevalue(person)).get(page_of(change)).content.decode()

            assert buttons_in(page) == BUTTONS[state, person]


HINTS = {
    ("submitted", "viewer"): "It waits for an approver",
    ("submitted", "author"): "You wrote this change, so someone else must approve it.",
    ("approved", "author"): "An operator or an approver applies it",
    ("draft", "viewer"): "It is still a draft",
}


@pytest.mark.parametrize(("state", "person"), HINTS)
def test_a_button_that_is_not_there_is_explained(
    state: str, person: str, site: Site, web: Service, login: Login, request: pytest.FixtureRequest
) -> None:
    change = in_state(site, state)

    page = login(request.getfixturevalue(person)).get(page_of(change)).content.decode()

    assert HINTS[state, person] in page


@pytest.mark.parametrize("superuser", [False, True])
def test_an_author_with_every_right_still_has_no_approve_button(
    superuser: bool, site: Site, web: Service, login: Login
) -> None:
    person = make_person("both", "Administrator", superuser=superuser)
    saved = save_draft(actor=person, cluster=site.cluster, data=heavier(), original_name="web")
    change = submit_change(actor=person, change=saved.change)
    client = login(person)

    page = client.get(page_of(change)).content.decode()
    response = client.post(do(change, "approve"), {"digest": change.digest}, follow=True)

    assert "approve" not in buttons_in(page)
    assert "someone else must approve it" in page
    assert "somebody else has to review it" in messages_of(response)
    change.refresh_from_db()
    assert change.state == "submitted"


def test_a_contributor_is_told_why_there_is_no_approve_button(site: Site, web: Service, login: Login) -> None:
    helper = make_person("helper", "Editor", "Approver")
    change = site.change(heavier())
    invite_person(actor=site.author, change=change, username="helper")
    save_draft(actor=helper, cluster=site.cluster, change=change, data=service_data("mail", port=25))
    change = submit_change(actor=site.author, change=change)

    page = login(helper).get(page_of(change)).content.decode()

    assert "You edited a draft in this change" in page
    assert "approve" not in buttons_in(page)


def test_the_page_shows_fields_traffic_and_rules(site: Site, submitted: Change, login: Login) -> None:
    page = login(site.approver).get(page_of(submitted)).content.decode()

    assert "Backend 10.0.0.3:80, weight" in page
    assert "1/4 · 25\N{NO-BREAK SPACE}%" in page
    assert "1/2 · 50\N{NO-BREAK SPACE}%" in page
    assert "1/6 · 16.67\N{NO-BREAK SPACE}%" in page
    assert re.search(r'lb-line--added"[^\n]*-A LB-S-web[^\n]*--every 6', page)


def test_from_draft_to_applied_by_three_people(site: Site, web: Service, login: Login) -> None:
    change = site.change(heavier())

    login(site.author).post(do(change, "submit"))
    change.refresh_from_db()
    login(site.approver).post(do(change, "approve"), {"digest": change.digest})
    response = login(site.operator).post(do(change, "apply"), follow=True)

    assert "Applying" in messages_of(response)
    site.finish(change.deployments.get())
    change.refresh_from_db()
    assert change.state == "applied"
    assert [b.weight for b in Service.objects.get(name="web").backends.all()] == [3, 1, 1, 1]


def test_an_approval_of_something_else_than_was_read_is_refused(
    site: Site, submitted: Change, login: Login
) -> None:
    response = login(site.approver).post(do(submitted, "approve"), {"digest": "0" * 64}, follow=True)

    assert "Reload and read it again" in messages_of(response)
    submitted.refresh_from_db()
    assert submitted.state == "submitted"


def test_a_rejection_without_a_reason_is_refused_and_one_with_a_reason_is_shown(
    site: Site, submitted: Change, login: Login
) -> None:
    client, fields = login(site.approver), {"digest": submitted.digest}

    refused = client.post(do(submitted, "reject"), {**fields, "reason": " "}, follow=True)
    client.post(do(submitted, "reject"), {**fields, "reason": "Wrong machine"})

    assert "Say why" in messages_of(refused)
    page = login(site.author).get(page_of(submitted)).content.decode()
    assert "Wrong machine" in page
    assert "Withdraw it to make it a draft again." in page


def test_a_draft_is_taken_out(site: Site, web: Service, login: Login) -> None:
    change = site.change(heavier(), service_data("mail", port=25))

    login(site.author).post(do(change, "drop-draft"), {"service_name": "mail"})

    assert [draft.service_name for draft in change.drafts.all()] == ["web"]


def test_title_and_description_are_changed(site: Site, web: Service, login: Login) -> None:
    change = site.change(heavier())

    login(site.author).post(do(change, "describe"), {"title": "New", "description": "Because"})

    change.refresh_from_db()
    assert (change.title, change.description) == ("New", "Because")


def test_what_moved_underneath_is_told_and_can_be_caught_up_with(
    site: Site, web: Service, login: Login
) -> None:
    change = site.change(heavier())
    site.deploy(service_data("web", port=81))
    client = login(site.author)

    page = client.get(page_of(change)).content.decode()
    undecided = client.post(do(change, "rebase"), follow=True)
    clash = "choice:web:backends[10.0.0.3:80]"
    client.post(do(change, "rebase"), {clash: "theirs"})

    assert "The service web was modified since." in page
    assert page.count(f'name="{clash}"') == 2
    assert "rebase" in buttons_in(page)
    assert "Say for each whose value it shall be" in messages_of(undecided)
    assert not Draft.objects.filter(change=change).exists()  # theirs, and then nothing is left to propose


class TestProgress:
    def progress(self, site: Site, change: Change, login: Login, person: User) -> object:
        return login(person).get(reverse("admin:balancer_change_progress", args=[change.pk]))

    def test_polls_while_it_runs_and_shows_each_node(self, site: Site, web: Service, login: Login) -> None:
        change = in_state(site, "applying")
        first = change.deployments.get().jobs.order_by("node__name").first()
        site.run(first)

        page = login(site.author).get(page_of(change)).content.decode()
        piece = self.progress(site, change, login, site.author).content.decode()

        for text in (page, piece):
            assert 'hx-trigger="every 1s"' in text
            assert "1 of 2 nodes carry revision 2." in text
            assert "Read the rules back" in text
        assert "Waiting for the node&#x27;s worker to take it." in piece

    def test_loads_the_page_anew_when_it_is_over(self, site: Site, web: Service, login: Login) -> None:
        change = in_state(site, "applying")
        site.finish(change.deployments.get())

        response = self.progress(site, change, login, site.author)

        assert response.headers["HX-Refresh"] == "true"
        page = login(site.author).get(page_of(change)).content.decode()
        assert "every 1s" not in page
        assert "2 of 2 nodes carry revision 2." in page

    def test_says_in_words_what_went_wrong(self, site: Site, web: Service, login: Login) -> None:
        change = in_state(site, "applying")
        site.kernels["lb1"].fail_next = Rejected("The kernel does not know the match statistic.")
        jobs = change.deployments.get().jobs.order_by("node__name")
        assert site.run(jobs[0]) is JobState.FAILED

        page = login(site.operator).get(page_of(change)).content.decode()

        assert "The kernel does not know the match statistic." in page
        assert "apply" in buttons_in(page)

    def test_an_operator_gives_up_on_nodes_that_do_not_answer(
        self, site: Site, web: Service, login: Login
    ) -> None:
        change = in_state(site, "applying")

        response = login(site.operator).post(
            reverse("admin:balancer_change_cancel", args=[change.pk]), follow=True
        )

        assert "Cancelled" in messages_of(response)
        change.refresh_from_db()
        assert change.state == "failed"


class TestRollback:
    def test_prepares_a_change_that_brings_the_old_content_back(
        self, site: Site, web: Service, login: Login
    ) -> None:
        first = Revision.objects.get(number=1)
        site.deploy(heavier())

        response = login(site.operator).post(
            reverse("admin:balancer_revision_roll_back", args=[first.pk]), follow=True
        )

        change = Change.objects.get(kind="rollback")
        assert response.redirect_chain[-1][0] == page_of(change)
        assert "was prepared" in messages_of(response)
        assert buttons_in(response.content.decode()) == {"submit", "discard", "describe"}

    def test_of_what_is_live_is_refused_with_a_sentence(self, site: Site, web: Service, login: Login) -> None:
        live = Revision.objects.get(number=1)

        response = login(site.operator).post(
            reverse("admin:balancer_revision_roll_back", args=[live.pk]), follow=True
        )

        assert "live already" in messages_of(response)
        assert not Change.objects.filter(kind="rollback").exists()

    @pytest.mark.parametrize(
        ("person", "there"), [("viewer", False), ("approver", False), ("operator", True), ("author", True)]
    )
    def test_has_a_button_for_those_who_may(
        self, person: str, there: bool, site: Site, web: Service, login: Login, request: pytest.FixtureRequest
    ) -> None:
        site.deploy(heavier())
        address = reverse("admin:balancer_revision_change", args=[Revision.objects.get(number=1).pk])

        page = login(request.getfixturevalue(person)).get(address).content.decode()

        assert ("Roll back to this" in page) is there


def test_two_revisions_are_compared_in_either_direction(site: Site, web: Service, login: Login) -> None:
    first = Revision.objects.get(number=1)
    second = site.deploy(heavier())
    client, address = login(site.author), reverse("admin:balancer_revision_compare")

    forth = client.get(address, {"from": first.pk, "to": second.pk}).context["services"]
    back = client.get(address, {"from": second.pk, "to": first.pk}).context["services"]

    assert [(row.before, row.after) for _, _, rows in forth for row in rows] == [("1", "3")]
    assert [(row.before, row.after) for _, _, rows in back for row in rows] == [("3", "1")]


def test_an_administrator_edits_a_node_and_nobody_else(
    site: Site, login: Login, administrator: User, operator: User
) -> None:
    node = site.cluster.nodes.get(name="lb1")
    address = reverse("admin:balancer_node_edit", args=[node.pk])
    fields = {"description": "Rack 3", "driver": "iptables-restore"}

    login(operator).post(address, fields)
    node.refresh_from_db()
    assert node.description == ""
    login(administrator).post(address, fields)
    node.refresh_from_db()
    assert (node.description, node.driver) == ("Rack 3", "iptables-restore")
    assert AuditEvent.objects.filter(action="node.updated", actor_name="administrator").exists()


def test_a_bad_name_of_a_node_is_told_at_its_field(site: Site, login: Login, administrator: User) -> None:
    response = login(administrator).post(
        reverse("admin:balancer_node_add"),
        {"cluster": site.cluster.pk, "name": "No Good", "description": "", "driver": "auto"},
    )

    assert "lower-case letters" in str(response.context["form"].errors["name"])


def test_what_an_administrator_does_to_accounts_is_in_the_audit_history(
    site: Site, login: Login, administrator: User
) -> None:
    client = login(administrator)
    group = site.approver.groups.get()
    fields = {
        "username": "newcomer",
        "usable_password": "true",
        "password1": "correct horse battery",
        "password2": "correct horse battery",
        "groups": [group.pk],
    }

    client.post("/auth/user/add/", fields)

    created = User.objects.get(username="newcomer")
    assert created.is_staff
    event = AuditEvent.objects.get(action="person.created", object_label="newcomer")
    assert (event.actor_name, event.facts["roles"]) == ("administrator", ["Approver"])


def test_an_administrator_cannot_take_over_a_superuser(
    login: Login, administrator: User, superuser: User
) -> None:
    response = login(administrator).post(
        f"/auth/user/{superuser.pk}/password/", {"password1": "x", "password2": "x"}
    )

    assert response.status_code == 403
