"""The operation policy of a cluster: in words for everybody, a form for administrators."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from balancer.domain.operation import Away, Confirm, OnDrift, OperationPolicy, Rehearse
from balancer.models import AuditEvent, Cluster
from balancer.workflow.clusters import create_cluster, create_node
from tests.admin.conftest import ROLES, Login, messages_of
from tests.admin.reading import text_of
from tests.cast import Site
from tests.documents import service_data

VALUES = {
    "rehearsal": "off",
    "confirm": "manual",
    "confirm_seconds": "60",
    "canary": "",
    "away": "skip",
    "rollback_at_once": "on",
    "override_weight_percent": "20",
    "override_keep": "2",
    "drill_hours": "168",
    "on_drift": "ask",
}
WANTED = OperationPolicy(
    rehearsal=Rehearse.OFF,
    confirm=Confirm.MANUAL,
    confirm_seconds=60,
    away=Away.SKIP,
    rollback_at_once=True,
    override_weight_percent=20,
    override_keep=2,
    drill_hours=168,
    on_drift=OnDrift.ASK,
)


def address_of(site: Site) -> str:
    return f"/balancer/cluster/{site.cluster.pk}/operation/"


@pytest.fixture
def chief(site: Site, administrator: User, login: Login) -> Client:
    return login(administrator)


def test_it_is_saved_shown_and_on_record(site: Site, chief: Client) -> None:
    was = site.cluster.operation
    second = site.cluster.nodes.get(name="lb2")

    response = chief.post(address_of(site), VALUES | {"canary": str(second.pk)}, follow=True)

    site.cluster.refresh_from_db()
    assert (site.cluster.operation, site.cluster.canary) == (WANTED, second)
    page = text_of(response)
    assert "unless people confirm within 60 seconds" in page
    assert "A roll-out begins with lb2." in page
    facts = AuditEvent.objects.get(action="operation.updated").facts
    assert facts["was"] == was.to_data() | {"canary": None}
    assert facts["now"] == WANTED.to_data() | {"canary": "lb2"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("confirm_seconds", value) for value in ("", "4", "3601", "x", "-1")),
        *(("override_weight_percent", value) for value in ("", "-1", "25501")),
        *(("override_keep", value) for value in ("", "-1", "1025")),
        *(("drill_hours", value) for value in ("0", "8761", "x")),
        *((field, "elsewhere") for field in ("rehearsal", "confirm", "away", "canary", "on_drift")),
    ],
)
def test_a_value_that_is_wrong_is_marked_and_nothing_is_saved(
    field: str, value: str, site: Site, chief: Client
) -> None:
    was = site.cluster.operation

    response = chief.post(address_of(site), VALUES | {field: value})

    assert set(response.context["form"].errors) == {field}
    assert Cluster.objects.get(pk=site.cluster.pk).operation == was


def test_a_node_of_another_cluster_cannot_be_the_first_of_a_roll_out(site: Site, chief: Client) -> None:
    other = create_node(actor=None, cluster=create_cluster(actor=None, name="west"), name="lb9")

    response = chief.post(address_of(site), VALUES | {"canary": str(other.pk)})

    assert set(response.context["form"].errors) == {"canary"}


def test_nobody_eases_the_way_of_their_own_change(site: Site, administrator: User, chief: Client) -> None:
    site.save("mail", by=administrator, port=25)
    was = site.cluster.operation

    response = chief.post(address_of(site), VALUES)

    assert "is not yours to change now" in text_of(response)
    assert Cluster.objects.get(pk=site.cluster.pk).operation == was
    assert AuditEvent.objects.filter(action="operation.updated.refused").exists()


def test_nothing_is_saved_while_a_change_is_applied(site: Site, chief: Client) -> None:
    site.start(service_data("web"))

    assert "wait until that is over" in text_of(chief.post(address_of(site), VALUES))


@pytest.mark.parametrize("person", [role for role in ROLES if role != "administrator"])
def test_only_an_administrator_changes_it(
    person: str, site: Site, login: Login, request: pytest.FixtureRequest
) -> None:
    was = site.cluster.operation
    client = login(request.getfixturevalue(person))

    response = client.post(address_of(site), VALUES, follow=True)

    assert Cluster.objects.get(pk=site.cluster.pk).operation == was
    if person != "stranger":
        assert "Only an administrator can change the operation policy" in messages_of(response)
