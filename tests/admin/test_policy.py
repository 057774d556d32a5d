"""The approval policy of a cluster: in words for everybody, a form for administrators."""

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from balancer.models import AuditEvent, Change
from balancer.workflow.clusters import create_cluster
from tests.admin.conftest import ROLES, Login, messages_of
from tests.admin.reading import text_of
from tests.cast import Site
from tests.documents import service_data

NUMBERS = ("", "-1", "10", "1000000000", "x", "1.5")
START = {"approvals": "1", "critical_approvals": "2", "approvals_expire_hours": ""}


def policy_of(site: Site) -> str:
    return f"/balancer/cluster/{site.cluster.pk}/policy/"


def page_of(site: Site) -> str:
    return f"/balancer/cluster/{site.cluster.pk}/change/"


@pytest.fixture
def chief(site: Site, administrator: User, login: Login) -> Client:
    return login(administrator)


@pytest.mark.parametrize("person", [role for role in ROLES if role != "stranger"])
def test_everybody_reads_what_an_approval_needs(
    person: str, site: Site, login: Login, request: pytest.FixtureRequest
) -> None:
    page = text_of(login(request.getfixturevalue(person)).get(page_of(site)))

    assert "A change needs one approval, one to a critical service two approvals." in page
    assert ("Edit policy" in page) is (person == "administrator")


def test_the_list_of_clusters_shows_it_briefly(site: Site, chief: Client) -> None:
    create_cluster(actor=None, name="west")

    assert text_of(chief.get("/balancer/cluster/")).count("1, critical 2") == 2


def test_a_policy_is_saved_and_on_record(site: Site, chief: Client, administrator: User) -> None:
    role = Group.objects.get(name="Approver")
    fields = {
        "approvals": "2",
        "critical_approvals": "3",
        "approver_groups": [role.pk],
        "approvals_expire_hours": "48",
    }

    response = chief.post(policy_of(site), fields | {"approver_groups": [role.pk]}, follow=True)

    site.cluster.refresh_from_db()
    assert site.cluster.policy.to_data() == {
        "approvals": 2,
        "critical_approvals": 3,
        "groups": ["Approver"],
        "expire_hours": 48,
    }
    assert "from members of Approver; an approval counts for 48 hours." in text_of(response)
    event = AuditEvent.objects.get(action="policy.updated")
    assert (event.actor_name, event.facts["was"]["approvals"]) == ("administrator", 1)


def test_open_changes_are_told(site: Site, submitted: Change, chief: Client) -> None:
    chief.post(policy_of(site), START | {"approvals": "2"})

    assert AuditEvent.objects.filter(action="change.policy_changed", object_id=str(submitted.pk)).exists()


@pytest.mark.parametrize(
    ("critical", "said"),
    [("0", "without anybody else having seen it."), ("2", "Only critical services need")],
)
def test_a_policy_without_approvals_is_warned_of(critical: str, said: str, site: Site, chief: Client) -> None:
    response = chief.post(
        policy_of(site), START | {"approvals": "0", "critical_approvals": critical}, follow=True
    )

    assert said in messages_of(response)
    for address in (page_of(site), policy_of(site)):
        assert said in text_of(chief.get(address))


def test_nobody_is_warned_of_a_policy_with_approvals(site: Site, chief: Client) -> None:
    assert "One person may" not in text_of(chief.get(page_of(site)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (field, value)
            for field in ("approvals", "critical_approvals")
            for value in ("", "-1", "10", "1000000000", "x", "1.5")
        ),
        *(("approvals_expire_hours", value) for value in ("0", "-1", "8761", "1000000000", "x", "9" * 5000)),
        ("approver_groups", "999"),
        ("approver_groups", "x"),
    ],
)
def test_a_value_that_is_wrong_is_marked_and_stays_in_the_form(
    field: str, value: str, site: Site, chief: Client
) -> None:
    response = chief.post(policy_of(site), START | {field: value})

    errors = response.context["form"].errors
    assert set(errors) == {field}
    assert errors[field][0].partition("“")[0] in text_of(response)
    assert value in response.context["form"][field].value() if value else True
    site.cluster.refresh_from_db()
    assert (site.cluster.approvals, site.cluster.critical_approvals) == (1, 2)
    assert "Now: A change needs one approval, one to a critical service two" in text_of(response)


def test_nobody_eases_the_way_of_their_own_change(site: Site, administrator: User, chief: Client) -> None:
    site.save("mail", by=administrator, port=25)

    response = chief.post(policy_of(site), START | {"approvals": "0"})

    assert "is not yours to change now" in text_of(response)
    assert response.context["form"]["approvals"].value() == "0"
    site.cluster.refresh_from_db()
    assert site.cluster.approvals == 1
    assert AuditEvent.objects.filter(action="policy.updated.refused").exists()


def test_no_policy_is_saved_while_a_change_is_applied(site: Site, chief: Client) -> None:
    site.start(service_data("web"))

    assert "wait until that is over" in text_of(chief.post(policy_of(site), START | {"approvals": "2"}))


@pytest.mark.parametrize("person", [role for role in ROLES if role != "administrator"])
def test_only_an_administrator_changes_it(
    person: str, site: Site, login: Login, request: pytest.FixtureRequest
) -> None:
    response = login(request.getfixturevalue(person)).post(policy_of(site), START | {"approvals": "0"})

    assert response.status_code == 302
    site.cluster.refresh_from_db()
    assert site.cluster.approvals == 1


def test_a_post_from_another_site_is_refused(site: Site, administrator: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(administrator)

    assert client.post(policy_of(site), START).status_code == 403
