"""Every page of the console, as everybody: nobody sees or does more than the role allows, reading changes
nothing, and nothing that a browser can send ends in an error of ours."""

from itertools import product

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from balancer.domain.types import BackendState
from balancer.models import Change
from balancer.workflow.overrides import set_override
from balancer.workflow.revisions import live_revision
from balancer.workflow.rollback import roll_back_to
from tests.admin.addresses import address_of, names
from tests.admin.conftest import ROLES, Login, messages_of
from tests.cast import Site
from tests.documents import service_data
from tests.matrix import CAMPAIGN, Rows, taken_back

PEOPLE_PAGES = ("auth_user", "auth_group")
ALWAYS_OPEN = {"index", "login", "password_change", "password_change_done", "search", "app_list"}
POST_ONLY = {
    "balancer_service_preview",
    "balancer_change_do",
    "balancer_change_cancel",
    "balancer_change_confirm",
    "balancer_revision_roll_back",
    "balancer_cluster_roll_back",
    "balancer_service_leave_change",
    "balancer_override_lift",
    "balancer_latereview_sign",
    "balancer_cluster_lift_freeze",
    "balancer_node_drill",
    "balancer_node_put_back",
}
FORMS_OF = {
    "balancer_service_add": {"author", "administrator"},
    "balancer_service_delete": {"author", "administrator"},
    "balancer_service_draft": {"author"},
    "balancer_service_bulk": {"author", "administrator"},
    "balancer_service_editing": {"author", "administrator"},
    "balancer_service_import": {"author", "administrator"},
    "balancer_service_input": {"author", "administrator"},
    "balancer_service_clear": {"operator", "administrator"},
    "balancer_cluster_add": {"administrator"},
    "balancer_cluster_policy": {"administrator"},
    "balancer_cluster_operation": {"administrator"},
    "balancer_cluster_freeze": {"administrator"},
    "balancer_cluster_edit": {"administrator"},
    "balancer_node_add": {"administrator"},
    "balancer_node_edit": {"administrator"},
}
"""Forms, and who gets them; everybody else is sent away with a sentence."""
OF_ITS_AUTHORS = {"balancer_service_draft": {"superuser"}}
"""Forms of somebody's own work, to which no right of one's own leads but an invitation."""
NEVER = {
    f"balancer_{model}_{page}"
    for model in ("change", "revision", "review", "auditevent", "override", "latereview")
    for page in ("add", "delete")
}
NEVER |= {f"balancer_{model}_delete" for model in ("cluster", "node")}
HISTORY = {name for name in names() if name.endswith("_history")}
"""Django's own log of a row, which nothing here writes: whoever asks for it is sent to the audit history."""

Snapshot = dict[str, list[object]]


@pytest.fixture
def busy(site: Site, submitted: Change) -> Site:
    """A console with something on every page: a deployment under way, a review, drafts."""
    live = live_revision(site.cluster)
    site.deploy(service_data("web", port=81, persistence={"mode": "source"}))
    set_override(
        actor=site.operator,
        cluster=site.cluster,
        service="web",
        address="10.0.0.3",
        port=81,
        state=BackendState.DRAINING,
        reason="disk is full",
    )
    site.start(service_data("dns", protocol="udp", port=53))
    site.save("mail", port=25)
    roll_back_to(actor=site.operator, revision=live)
    return site


def everybody(request: pytest.FixtureRequest, login: Login) -> dict[str, Client]:
    people: dict[str, Client] = {name: login(request.getfixturevalue(name)) for name in ROLES}
    return people | {"superuser": login(request.getfixturevalue("superuser")), "nobody": Client()}


def snapshot() -> Snapshot:
    """All rows of all tables, but for who is logged in."""
    models = [model for model in apps.get_models() if model is not Session]
    return {model._meta.label: list(model._default_manager.order_by("pk").values_list()) for model in models}


def expected_status(name: str, person: str) -> set[int]:
    """What asking for a page is answered with."""
    if person == "nobody":
        return {200} if name == "login" else {302}
    if name == "login":
        return {302}
    if name in POST_ONLY:
        return {405}
    if name in ALWAYS_OPEN:
        return {404} if name == "app_list" and person == "stranger" else {200}
    if name in HISTORY:
        return {302}
    if name.startswith(PEOPLE_PAGES):
        return {200} if person in {"administrator", "superuser"} else {403}
    if name in NEVER:
        return {403}
    if name in FORMS_OF:
        allowed = FORMS_OF[name] | ({"superuser"} - OF_ITS_AUTHORS.get(name, set()))
        return {200} if person in allowed else {302}
    if person == "stranger":
        return {302, 403, 404}  # told that it is not there, as of a row that was never there
    return {200}


def test_everybody_gets_what_the_role_allows_and_reading_changes_nothing(
    busy: Site, login: Login, request: pytest.FixtureRequest
) -> None:
    people = everybody(request, login)
    before = snapshot()

    answers = {
        (name, person): client.get(address_of(name)).status_code
        for name in names()
        for person, client in people.items()
    }

    wrong = {asked: status for asked, status in answers.items() if status not in expected_status(*asked)}
    assert not wrong
    assert snapshot() == before


def test_the_table_of_pages_is_the_consoles_own() -> None:
    assert {"balancer_service_changelist", "balancer_change_do", "balancer_revision_compare"} <= set(names())
    assert {"balancer_auditevent_export_csv", "balancer_auditevent_export_jsonl"} <= set(names())
    assert set(FORMS_OF) | NEVER | POST_ONLY | ALWAYS_OPEN <= set(names())


DEEDS = (
    "submit",
    "withdraw",
    "rebase",
    "approve",
    "reject",
    "apply",
    "schedule",
    "cancel-window",
    "discard",
    "rehearse",
    "describe",
    "drop-draft",
)
POST = ("superuser", "operator", "stranger", "nobody")
"""Who posts without a campaign: who may do everything, one thing, nothing, and who is not logged in."""
WHOLE_DEEDS = {
    "balancer_service_delete",
    "balancer_service_leave_change",
    "balancer_change_do",
    "balancer_change_cancel",
    "balancer_change_confirm",
    "balancer_revision_roll_back",
    "balancer_cluster_roll_back",
    "balancer_override_lift",
    "balancer_latereview_sign",
    "balancer_service_clear",
}
"""Where an empty post says all that there is to say."""


def test_an_empty_post_of_anybody_ends_in_an_answer_and_not_in_a_deed(
    busy: Site, login: Login, request: pytest.FixtureRequest
) -> None:
    people = everybody(request, login)
    if not CAMPAIGN:
        people = {name: client for name, client in people.items() if name in POST}
    before = snapshot()
    posts = [name for name in names() if name.startswith("balancer_") and name not in WHOLE_DEEDS]

    answers = {
        (name, person): client.post(address_of(name)).status_code
        for name in posts
        for person, client in people.items()
    }

    assert not {asked: status for asked, status in answers.items() if status >= 500}
    after = snapshot()
    # A refused deed leaves an event that says so; nothing else may be different.
    del before["balancer.AuditEvent"], after["balancer.AuditEvent"]
    assert after == before


@pytest.mark.parametrize("person", ["viewer", "stranger"])
def test_who_may_only_look_does_nothing(
    person: str, submitted: Change, login: Login, request: pytest.FixtureRequest
) -> None:
    client = login(request.getfixturevalue(person))
    fields = {"digest": submitted.digest, "reason": "because", "title": "Mine", "service_name": "web"}
    rows = Rows()

    with rows.watched():
        answers = {
            deed: client.post(f"/balancer/change/{submitted.pk}/do/{deed}/", fields).status_code
            for deed in DEEDS
        }

    assert set(answers.values()) <= {200, 302, 403}, answers  # 200: the page again, the reason in its field
    assert rows.are_the_same()


@pytest.mark.parametrize("address", ["/balancer/change/{}/do/approve/", "/balancer/revision/{}/roll-back/"])
def test_a_post_from_another_site_is_refused(address: str, submitted: Change, approver: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(approver)

    response = client.post(address.format(submitted.pk), {"digest": submitted.digest})

    assert response.status_code == 403
    submitted.refresh_from_db()
    assert submitted.state == "submitted"


NOWHERE = (
    "/balancer/service/999/change/",
    "/balancer/service/x/change/",
    "/balancer/service/999/operate/",
    "/balancer/service/999/clear/",
    "/balancer/override/999/change/",
    "/balancer/latereview/999/change/",
    "/balancer/service/draft/999/",
    "/balancer/change/999/change/",
    "/balancer/change/999999999999999999999999/change/",
    "/balancer/revision/999/change/",
    "/balancer/revision/compare/",
    "/balancer/revision/compare/?from=1&to=999",
    "/balancer/revision/compare/?from=x&to=%00",
    "/balancer/node/999/change/",
    "/balancer/cluster/999/edit/",
    "/balancer/auditevent/999999/change/",
    "/balancer/service/?q=%00",
    "/balancer/service/?p=999",
    "/balancer/service/?o=999.x",
    "/balancer/auditevent/?action=nothing.such",
    "/balancer/auditevent/?since=yesteryear",
    "/balancer/auditevent/export.csv?action=nothing.such&q=%00&p=999&o=99.x",
    "/balancer/auditevent/export.jsonl?nonsense=1",
    "/balancer/auditevent/export.xls",
    "/balancer/service/add/?cluster=999",
)


def test_an_address_that_leads_nowhere_is_answered(busy: Site, superuser: User, login: Login) -> None:
    client = login(superuser)

    answers = {address: client.get(address, follow=True).status_code for address in NOWHERE}

    assert set(answers.values()) <= {200, 404}, answers


@pytest.mark.parametrize("deeds", [DEEDS[::2], (*DEEDS[1::2], "nonsense")], ids=["some", "the others"])
def test_a_stale_or_forged_deed_is_answered_with_a_sentence(
    deeds: tuple[str, ...], busy: Site, login: Login, superuser: User
) -> None:
    client = login(superuser)
    for deed, change in product(deeds, Change.objects.all()):
        with taken_back():
            response = client.post(
                f"/balancer/change/{change.pk}/do/{deed}/", {"digest": "0" * 64}, follow=True
            )

            assert (deed, response.status_code) == (deed, 200)
            assert messages_of(response), deed
