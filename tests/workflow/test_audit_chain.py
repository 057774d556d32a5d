"""The audit history is a chain: what the workflow writes verifies, and what it did not write is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, connection, transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from balancer.domain.chain import GENESIS, FaultKind, Head
from balancer.models import AuditEvent, history
from balancer.workflow import audit
from balancer.workflow.errors import Refused
from balancer.workflow.history import verify_history
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import service_data

TABLE = "balancer_auditevent"
COLUMNS = (
    "number, at, actor_name, source, action, object_type, object_id, object_label, facts, previous, hash"
)
NASTY: dict[str, Any] = {
    "nul": "a\x00b",
    "surrogate": "\udc80",
    "words": "Zoë 🙂 \"'\\ \r\n",
    "whole": 3.0,
    "huge": 1e300,
    "exponent": 1e16,
    "tiny": 5e-324,
    "third": 1 / 3,
    "zero": -0.0,
    "nothing": float("nan"),
    "integer": 2**70,
    "nested": {"b": [1, {"a": None}], 7: True},
    "bytes": b"\xff",
}


def run_sql(statement: str, values: list[Any] | None = None) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)


def tamper(statement: str, values: list[Any] | None = None) -> None:
    """What somebody does who owns the database and has dropped the triggers."""
    history.uninstall(connection=connection)
    run_sql(statement, values)


def copy_event(number: str, *, previous: str, verb: str = "INSERT") -> str:
    """SQL that writes the first event once more, with another number and link."""
    columns = COLUMNS.removeprefix("number").replace(", previous", f", {previous}", 1)
    return f"{verb} INTO {TABLE} ({COLUMNS}) SELECT {number}{columns} FROM {TABLE} WHERE number = 1"


# What the workflow writes


def test_everything_that_a_site_does_is_one_chain(site: Site, stranger: User) -> None:
    site.deploy(service_data("web"))
    with pytest.raises(Refused):
        submit_change(actor=stranger, change=site.change(service_data("dns", port=53)))

    numbers = list(AuditEvent.objects.order_by("pk").values_list("number", flat=True))
    verdict = verify_history()

    assert numbers == list(range(1, len(numbers) + 1))
    assert (verdict.fault, verdict.count) == (None, len(numbers))


def test_the_first_event_goes_on_from_nothing_and_each_from_the_one_before(db: None) -> None:
    events = [audit.record(actor=None, action="test.done") for _ in range(3)]

    assert [event.previous for event in events] == [GENESIS, events[0].hash, events[1].hash]


def test_facts_that_a_database_would_alter_or_refuse_verify_when_they_are_read_back(db: None) -> None:
    audit.record(actor=None, action="test.done", facts=NASTY)

    assert verify_history().fault is None
    facts = AuditEvent.objects.get().facts
    assert (facts["nul"], facts["exponent"], facts["third"]) == ("a\\x00b", 10**16, 1 / 3)


def test_names_that_no_column_takes_are_shortened_and_the_event_is_kept(db: None) -> None:
    actor = User(username="n\x00" + "x" * 300)
    with audit.from_source("s" * 300):
        audit.record(actor=actor, action="a" * 300, target=User(pk=1, username="\ud800" * 300))

    event = AuditEvent.objects.get()
    assert (len(event.actor_name), len(event.source), len(event.action)) == (150, 64, 64)
    assert verify_history().fault is None


@pytest.mark.django_db(transaction=True)
def test_an_event_outside_a_transaction_is_refused() -> None:
    with pytest.raises(transaction.TransactionManagementError, match=r"audit\.writing"):
        audit.record(actor=None, action="test.done")


def test_an_event_carries_the_source_that_it_was_recorded_under(db: None) -> None:
    with audit.from_source("192.0.2.7"), audit.from_source("192.0.2.8"):
        inside = audit.record(actor=None, action="test.done")
    after = audit.record(actor=None, action="test.done")

    assert (inside.source, after.source) == ("192.0.2.8", "")


def test_what_is_rolled_back_leaves_no_gap(db: None) -> None:
    audit.record(actor=None, action="test.first")
    with audit.writing():
        audit.record(actor=None, action="test.undone")
        transaction.set_rollback(True)
    audit.record(actor=None, action="test.second")

    assert list(AuditEvent.objects.order_by("pk").values_list("number", "action")) == [
        (1, "test.first"),
        (2, "test.second"),
    ]


# What the database refuses


@pytest.mark.parametrize(
    "statement",
    [
        copy_event("(SELECT MAX(number) + 2 FROM balancer_auditevent)", previous="hash"),
        copy_event("(SELECT MAX(number) + 1 FROM balancer_auditevent)", previous="'forged'"),
        copy_event("(SELECT MAX(number) + 1 FROM balancer_auditevent)", previous="previous"),
        copy_event("0", previous="previous"),
        copy_event("1", previous="previous"),
    ],
    ids=["gap", "forged link", "old link", "before the first", "in another's place"],
)
def test_an_insert_that_does_not_go_on_from_the_last_event_is_refused(site: Site, statement: str) -> None:
    before = list(AuditEvent.objects.order_by("pk").values_list())

    with pytest.raises(IntegrityError):
        run_sql(statement)

    assert list(AuditEvent.objects.order_by("pk").values_list()) == before


def test_sqlite_refuses_to_replace_what_was_written(site: Site) -> None:
    """REPLACE deletes rows without asking a DELETE trigger; PostgreSQL has no such thing."""
    if connection.vendor != "sqlite":
        assert connection.vendor == "postgresql"
        return
    number, link = (
        f"(SELECT MAX(number) + 1 FROM {TABLE})",
        f"(SELECT hash FROM {TABLE} ORDER BY number DESC)",
    )
    into = f"REPLACE INTO {TABLE} (id, {COLUMNS})"
    columns = COLUMNS.removeprefix("number").replace(", previous", f", {link}", 1)
    before = list(AuditEvent.objects.order_by("pk").values_list())

    for statement in (
        f"{into} SELECT id, {number}{columns} FROM {TABLE} WHERE number = 1",
        copy_event("1", previous="previous", verb="REPLACE"),
        "REPLACE INTO balancer_revision SELECT * FROM balancer_revision",
    ):
        with pytest.raises(IntegrityError, match=r"append-only|immutable"):
            run_sql(statement)

    assert list(AuditEvent.objects.order_by("pk").values_list()) == before


# What is found when the triggers were dropped

TAMPERED: dict[str, tuple[str, FaultKind, int]] = {
    "an edited name": (f"UPDATE {TABLE} SET actor_name = 'nobody' WHERE number = 2", FaultKind.EDITED, 2),
    "an edited time": (
        f"UPDATE {TABLE} SET at = '2020-01-01 00:00:00+00:00' WHERE number = 2",
        FaultKind.EDITED,
        2,
    ),
    "edited facts": (f"UPDATE {TABLE} SET facts = '{{\"a\": 1}}' WHERE number = 2", FaultKind.EDITED, 2),
    "an edited link": (f"UPDATE {TABLE} SET previous = hash WHERE number = 2", FaultKind.EDITED, 2),
    "a deleted event": (f"DELETE FROM {TABLE} WHERE number = 2", FaultKind.MISSING, 2),
    "a deleted beginning": (f"DELETE FROM {TABLE} WHERE number < 3", FaultKind.MISSING, 1),
    "events that changed places": (
        f"UPDATE {TABLE} SET number = CASE number WHEN 2 THEN 1003 ELSE 1002 END WHERE number IN (2, 3);"
        f"UPDATE {TABLE} SET number = number - 1000 WHERE number > 1000",
        FaultKind.REORDERED,
        2,
    ),
    "rows that changed places": (
        f"UPDATE {TABLE} SET id = id + 1000 WHERE number = 2",
        FaultKind.REORDERED,
        3,
    ),
    "an inserted event": (copy_event("5", previous="hash"), FaultKind.EDITED, 5),
    "a cut tail": (f"DELETE FROM {TABLE} WHERE number > 2", FaultKind.CUT, 3),
    "everything cut": (f"DELETE FROM {TABLE}", FaultKind.CUT, 1),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_done_past_the_triggers_is_found(db: None, name: str) -> None:
    events = [audit.record(actor=None, action="test.done", facts={"n": n}) for n in range(4)]
    statements, kind, number = TAMPERED[name]
    for statement in statements.split(";"):
        tamper(statement)

    fault = verify_history(heads=[Head(4, events[-1].hash)]).fault

    assert fault is not None
    assert (fault.kind, fault.number) == (kind, number)


@contextmanager
def without_checks() -> Iterator[None]:
    """On SQLite whoever owns the file can write past its CHECK constraints."""
    if connection.vendor != "sqlite":
        yield
        return
    run_pragma("ignore_check_constraints = ON")
    try:
        yield
    finally:
        run_pragma("ignore_check_constraints = OFF")


def run_pragma(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA {text}")


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("at", "yesterday"),
        ("at", "2026-99-99 00:00:00"),
        ("facts", "{"),
        ("number", "two"),
        ("facts", "1e9999"),
    ],
)
def test_a_row_that_is_none_any_more_is_named_and_not_stumbled_over(db: None, column: str, text: str) -> None:
    for _ in range(3):
        audit.record(actor=None, action="test.done")
    statement = f"UPDATE {TABLE} SET {column} = %s WHERE number = 3"
    with without_checks():
        try:
            tamper(statement, [text])
        except DatabaseError:  # PostgreSQL has types, and refuses most of it
            assert connection.vendor == "postgresql"
            return
        fault = verify_history().fault

    assert fault is not None
    assert (fault.kind, fault.number) == (FaultKind.EDITED, 3)


# Heads


def test_the_head_is_said_after_the_commit_once_for_each_event(
    db: None,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit.logger, "handlers", [caplog.handler])
    with django_capture_on_commit_callbacks(execute=True), audit.writing():
        events = [audit.record(actor=None, action="test.done") for _ in range(2)]
        assert caplog.messages == []

    chain = events[0].hash[:16]
    assert caplog.messages == [
        f"audit chain={chain} head={event.number}:{event.hash} test.done by system" for event in events
    ]
