"""Roles: what the migration makes, and the accounts and nodes an administrator sets up."""

import pytest
from django.contrib.auth.models import Group, Permission, User

from balancer.models import AuditEvent, Node
from balancer.models.roles import OWN_PERMISSIONS, ROLES, VIEWED_MODELS
from balancer.workflow.clusters import create_cluster, create_node, create_person, update_node
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import ADMINISTER, APPLY, APPROVE, DRAFT, OPERATE, ROLL_BACK, may
from tests.cast import PASSWORD, Site, make_person

EXPECTED = {
    "Viewer": set(),
    "Editor": {DRAFT, ROLL_BACK},
    "Approver": {APPROVE, APPLY},
    "Operator": {APPLY, ROLL_BACK, OPERATE},
    "Administrator": {DRAFT, APPROVE, APPLY, ROLL_BACK, OPERATE, ADMINISTER},
}


@pytest.mark.django_db
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_it_is_for_and_see_everything(role: str) -> None:
    person = make_person("somebody", role)

    allowed = {
        deed
        for deed in (DRAFT, APPROVE, APPLY, ROLL_BACK, OPERATE, ADMINISTER)
        if may(actor=person, permission=deed)
    }
    assert allowed == EXPECTED[role]
    assert all(person.has_perm(f"balancer.view_{model}") for model in VIEWED_MODELS)


@pytest.mark.django_db
def test_no_role_gives_django_s_own_right_to_write_our_tables() -> None:
    given = Permission.objects.filter(group__name__in=ROLES, content_type__app_label="balancer")
    codenames = {codename for (_, codename) in OWN_PERMISSIONS}

    assert [
        p.codename for p in given if not p.codename.startswith("view_") and p.codename not in codenames
    ] == []
    assert Group.objects.filter(name__in=ROLES).count() == len(ROLES)


def test_an_account_that_was_switched_off_may_do_nothing(superuser: User) -> None:
    superuser.is_active = False

    assert not may(actor=superuser, permission=DRAFT)


def test_an_administrator_adds_people_nodes_and_clusters(administrator: User) -> None:
    person = create_person(actor=administrator, username="ann", password=PASSWORD, roles=("Editor",))
    cluster = create_cluster(actor=administrator, name="edge")
    node = create_node(actor=administrator, cluster=cluster, name="lb1")
    update_node(actor=administrator, node=node, description="rack 3", driver="iptables-restore")

    assert (person.is_staff, person.check_password(PASSWORD)) == (True, True)
    assert Node.objects.get().driver == "iptables-restore"
    actions = AuditEvent.objects.filter(actor_id=administrator.pk).values_list("action", flat=True)
    assert sorted(actions) == ["cluster.created", "node.created", "node.updated", "person.created"]


@pytest.mark.parametrize("name", ["", "LB1", "a b", "-lb1", "lb1\n", "lb/1", "x" * 64, "lb1;true"])
def test_a_name_that_cannot_be_a_queue_is_refused(site: Site, name: str) -> None:
    with pytest.raises(Refused) as refused:
        create_node(actor=None, cluster=site.cluster, name=name)

    assert refused.value.code == "invalid"


def test_only_an_administrator_adds_nodes(site: Site) -> None:
    with pytest.raises(Refused) as refused:
        create_node(actor=site.operator, cluster=site.cluster, name="lb3")

    assert refused.value.code == "forbidden"
