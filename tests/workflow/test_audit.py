"""History: written with the deed or not at all, and never changed afterwards."""

import pytest
from django.contrib.auth.models import Group, User
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from balancer.models import AuditEvent, Evidence, Review, Revision, Service, Vote
from balancer.models.history import APPEND_ONLY_TABLES
from balancer.models.roles import ROLES
from balancer.workflow import audit
from balancer.workflow.approvals import approve_change
from balancer.workflow.emergencies import apply_in_emergency
from balancer.workflow.errors import Refused
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import service_data


def test_the_way_of_a_change_is_on_record_with_names(site: Site) -> None:
    site.deploy(service_data("web"))

    events = AuditEvent.objects.order_by("pk").values_list("actor_name", "action")
    told = [event for event in events if event[1].startswith(("change", "draft", "deployment", "revision"))]
    assert told == [
        ("author", "change.opened"),
        ("author", "draft.saved"),
        ("author", "change.submitted"),
        ("approver", "change.approved"),
        ("operator", "revision.created"),
        ("operator", "deployment.started"),
        ("system", "deployment.succeeded"),
        ("system", "change.applied"),
    ]


def test_a_deed_whose_event_cannot_be_written_is_not_done(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = submit_change(actor=site.author, change=site.change(service_data("web")))

    def fail(**_: object) -> None:
        raise DatabaseError("disk full")

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(DatabaseError):
        approve_change(actor=site.approver, change=change, digest=change.digest, password_at=timezone.now())

    change.refresh_from_db()
    assert (change.state, Vote.objects.count()) == ("submitted", 0)


def test_a_job_whose_event_cannot_be_written_is_not_recorded_as_done(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = site.start(service_data("web")).jobs.get(node__name="lb1")
    record = audit.record

    def fail(**arguments: object) -> object:
        if arguments["action"] == "job.succeeded":
            raise DatabaseError("disk full")
        return record(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(DatabaseError):
        site.run(job)

    job.refresh_from_db()
    assert (job.state, job.node.carried_revision) == ("running", None)
    assert not Service.objects.exists()


def test_a_refusal_is_on_record_with_its_reason(site: Site, stranger: User) -> None:
    with pytest.raises(Refused):
        submit_change(actor=stranger, change=site.change(service_data("web")))

    event = AuditEvent.objects.get(action="change.submitted.refused")
    assert (event.actor_name, event.object_type, event.facts["code"]) == ("stranger", "change", "forbidden")


def test_the_name_of_an_actor_outlives_the_account(site: Site, stranger: User) -> None:
    audit.record(actor=stranger, action="test.done")
    stranger.delete()

    assert AuditEvent.objects.get(action="test.done").actor_name == "stranger"


# Append-only, on whichever database the tests run


@pytest.mark.parametrize("table", sorted(APPEND_ONLY_TABLES))
@pytest.mark.parametrize("statement", ["UPDATE {} SET id = id", "DELETE FROM {}"])
def test_the_database_refuses_to_change_history(
    site: Site, administrator: User, table: str, statement: str
) -> None:
    """Also notices a migration that copied the table on SQLite and so lost its triggers."""
    site.deploy(service_data("web"))
    change = submit_change(actor=site.author, change=site.change(service_data("mail", port=25)))
    apply_in_emergency(actor=administrator, change=change, reason="Fire.", password_at=timezone.now())
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {table}")
        (count,) = cursor.fetchone()
    assert count > 0

    refused = pytest.raises(DatabaseError, match=r"append-only|immutable")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format(table))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("time", ["once", "twice"])
def test_a_test_with_real_commits_leaves_triggers_and_roles_for_the_next(time: str) -> None:
    assert Group.objects.filter(name__in=ROLES).count() == len(ROLES)
    assert not AuditEvent.objects.exists()
    with audit.writing():
        audit.record(actor=None, action="test.done")

    with pytest.raises(DatabaseError, match="append-only"):
        AuditEvent.objects.all().delete()


@pytest.mark.parametrize("model", [AuditEvent, Revision, Review, Evidence])
def test_the_models_refuse_first(site: Site, model: type[AuditEvent | Revision | Review | Evidence]) -> None:
    site.deploy(service_data("web"))
    row = model.objects.first()
    assert row is not None

    with pytest.raises(TypeError):
        row.save()
    with pytest.raises(TypeError):
        row.delete()
