"""Accounts and roles: each deed is on record with what the person was and is, and open changes are told."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from balancer.models import AuditEvent, Change
from balancer.workflow import policies
from tests.admin.conftest import Login, heavier, messages_of
from tests.cast import PASSWORD, Site, make_person


@pytest.fixture
def chief(administrator: User, login: Login) -> Client:
    return login(administrator)


def page_of(row: User | Group, page: str = "change") -> str:
    return f"/auth/{'user' if isinstance(row, User) else 'group'}/{row.pk}/{page}/"


def account(person: User, **changed: Any) -> dict[str, Any]:
    """What the form of an account sends, but for what is changed."""
    roles = list(person.groups.values_list("pk", flat=True))
    fields = {"username": person.username, "first_name": "", "last_name": "", "email": ""}
    return fields | {"is_active": "on", "groups": roles} | changed


def role(name: str) -> int:
    return Group.objects.get(name=name).pk


def facts_of(action: str) -> dict[str, Any]:
    return AuditEvent.objects.get(action=action).facts


def test_a_new_account_is_on_record(chief: Client) -> None:
    fields = {"username": "newcomer", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}

    response = chief.post("/auth/user/add/", fields | {"groups": [role("Approver")]})

    assert response.status_code == 302
    facts = facts_of("person.created")
    assert facts["was"] is None
    assert facts["now"] == {"roles": ["Approver"], "active": True, "superuser": False, "approves": True}


def test_a_role_that_is_given_is_on_record_before_and_after(chief: Client, viewer: User) -> None:
    chief.post(page_of(viewer), account(viewer, groups=[role("Editor"), role("Approver")]))

    facts = facts_of("person.updated")
    assert (facts["was"]["roles"], facts["was"]["approves"]) == (["Viewer"], False)
    assert (facts["now"]["roles"], facts["now"]["approves"]) == (["Approver", "Editor"], True)
    assert facts["changed"] == ["groups"]


def test_an_account_that_is_switched_off_is_on_record(chief: Client, approver: User) -> None:
    fields = account(approver)
    del fields["is_active"]

    chief.post(page_of(approver), fields)

    facts = facts_of("person.updated")
    assert (facts["was"]["active"], facts["now"]["active"]) == (True, False)
    assert facts["now"]["approves"] is False


def test_a_change_in_review_is_told_who_began_to_approve(
    site: Site, submitted: Change, chief: Client, viewer: User
) -> None:
    chief.post(page_of(viewer), account(viewer, groups=[role("Approver")]))

    event = AuditEvent.objects.get(action="change.people_changed")
    assert (event.object_id, event.facts["person"]) == (str(submitted.pk), "viewer")


def test_an_approval_of_somebody_who_lost_the_right_no_longer_carries(
    site: Site, web: object, chief: Client
) -> None:
    change = site.approved(heavier())

    chief.post(page_of(site.approver), account(site.approver, groups=[role("Viewer")]))

    change.refresh_from_db()
    assert change.state == "submitted"


def test_a_new_password_is_on_record_without_being_in_it(chief: Client, viewer: User) -> None:
    fields = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}

    chief.post(page_of(viewer, "password"), fields)

    viewer.refresh_from_db()
    assert viewer.check_password(PASSWORD)
    facts = facts_of("person.updated")
    assert facts["changed"] == ["password"]
    assert facts["was"] == facts["now"]
    assert PASSWORD not in str(facts)
    assert viewer.password not in str(facts)


def test_a_password_that_is_refused_leaves_nothing(chief: Client, viewer: User) -> None:
    was = viewer.password

    chief.post(page_of(viewer, "password"), {"usable_password": "true", "password1": "x", "password2": "x"})

    viewer.refresh_from_db()
    assert viewer.password == was
    assert not AuditEvent.objects.filter(action="person.updated").exists()


def test_where_the_record_cannot_be_written_nothing_is(
    chief: Client, viewer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only stand-in here: a record that fails, as a full disk would make it."""

    def fail(**_: Any) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(policies, "record_person", fail)
    fields = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}

    with pytest.raises(RuntimeError):
        chief.post(page_of(viewer), account(viewer, groups=[role("Administrator")]))
    with pytest.raises(RuntimeError):
        chief.post(page_of(viewer, "password"), fields)

    viewer.refresh_from_db()
    assert [group.name for group in viewer.groups.all()] == ["Viewer"]
    assert not viewer.check_password(PASSWORD)


def test_who_wrote_nothing_can_be_deleted_and_stays_in_the_history(chief: Client) -> None:
    person = make_person("short-lived", "Editor")

    chief.post(page_of(person, "delete"), {"post": "yes"})

    assert not User.objects.filter(username="short-lived").exists()
    assert AuditEvent.objects.get(action="person.deleted").object_label == "short-lived"


@pytest.mark.parametrize("method", ["get", "post"])
def test_who_wrote_anything_is_switched_off_instead(
    method: str, site: Site, submitted: Change, chief: Client
) -> None:
    response = getattr(chief, method)(page_of(site.author, "delete"), {"post": "yes"}, follow=True)

    assert "author has a part in changes" in messages_of(response)
    assert "Switch it off here instead: untick Active." in messages_of(response)
    assert response.redirect_chain == [(page_of(site.author), 302)]
    assert User.objects.filter(username="author").exists()
    assert not AuditEvent.objects.filter(action="person.deleted").exists()


@pytest.mark.parametrize("page", ["change", "delete", "password"])
def test_the_account_of_a_superuser_is_for_superusers(page: str, chief: Client, superuser: User) -> None:
    fields = account(superuser, post="yes", password1=PASSWORD, password2=PASSWORD, usable_password="true")

    assert chief.post(page_of(superuser, page), fields).status_code == 403


def test_nobody_makes_a_superuser_here(chief: Client, viewer: User) -> None:
    chief.post(page_of(viewer), account(viewer, is_superuser="on"))

    viewer.refresh_from_db()
    assert not viewer.is_superuser


@pytest.mark.parametrize("name", ["", "a b", 'quo"te', "new\nline", "\N{ROCKET}", "x" * 151, "viewer"])
def test_a_name_that_is_none_makes_no_account(name: str, chief: Client, viewer: User) -> None:
    fields = {"username": name, "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}

    response = chief.post("/auth/user/add/", fields)

    assert response.status_code == 200
    assert not AuditEvent.objects.filter(action="person.created").exists()


def test_what_a_role_gains_and_loses_is_on_record_and_told(
    site: Site, submitted: Change, chief: Client
) -> None:
    group = Group.objects.get(name="Operator")
    approve = Permission.objects.get(codename="approve_change")
    kept = group.permissions.exclude(codename="apply_change").values_list("pk", flat=True)

    chief.post(page_of(group), {"name": group.name, "permissions": [*kept, approve.pk]})

    facts = facts_of("role.updated")
    assert (facts["gained"], facts["lost"]) == (["approve_change"], ["apply_change"])
    assert AuditEvent.objects.filter(action="change.people_changed", object_id=str(submitted.pk)).exists()


def test_a_new_role_is_on_record(chief: Client) -> None:
    chief.post("/auth/group/add/", {"name": 'Night "shift" \N{CRESCENT MOON}', "permissions": []})

    assert AuditEvent.objects.get(action="role.created").object_label == 'Night "shift" \N{CRESCENT MOON}'


def test_a_role_that_is_deleted_takes_the_right_from_its_members_and_changes_are_told(
    site: Site, web: object, chief: Client
) -> None:
    change = site.approved(heavier())

    chief.post(page_of(Group.objects.get(name="Approver"), "delete"), {"post": "yes"})

    change.refresh_from_db()
    assert change.state == "submitted"
    assert AuditEvent.objects.get(action="role.deleted").object_label == "Approver"
    assert facts_of("person.updated")["now"]["roles"] == []


def test_a_role_that_a_policy_names_stays(site: Site, administrator: User, chief: Client) -> None:
    group = Group.objects.get(name="Approver")
    policies.update_policy(
        actor=administrator, cluster=site.cluster, approvals=1, critical_approvals=2, groups=[group]
    )

    response = chief.post(page_of(group, "delete"), {"post": "yes"}, follow=True)

    assert "out of the approval policy first" in messages_of(response)
    assert Group.objects.filter(name="Approver").exists()
