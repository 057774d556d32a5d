"""manage.py audit_verify: what it says, and what it exits with."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from balancer.domain.chain import Head
from balancer.domain.heads import head_line
from balancer.models import AuditEvent, history
from balancer.workflow import audit
from balancer.workflow.history import export_data, read_events
from tests.syslog import HOST

LENGTH = 5


@pytest.fixture
def events(db: None) -> list[AuditEvent]:
    return [audit.record(actor=None, action="test.done", facts={"n": n}) for n in range(LENGTH)]


@pytest.fixture
def syslog(tmp_path: Path, events: list[AuditEvent]) -> Path:
    """With the head of every event, among lines of other programs."""
    path = tmp_path / "auth.log"
    lines = [
        f"{HOST} sshd[7]: Failed password for \xff",
        *(log_line(event, events[0].hash) for event in events),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    return path


def log_line(event: AuditEvent, first_hash: str) -> str:
    head = Head(event.number, event.hash)
    return (
        f"{HOST} lbadmin: {head_line(first_hash=first_hash, head=head, action='test.done', actor='system')}"
    )


def verify(*arguments: object) -> str:
    output = StringIO()
    call_command("audit_verify", *map(str, arguments), stdout=output, stderr=output)
    return output.getvalue()


def why_not(*arguments: object) -> str:
    with pytest.raises(CommandError) as caught:
        verify(*arguments)
    assert caught.value.returncode == 1
    return str(caught.value)


def tamper(statement: str) -> None:
    history.uninstall(connection=connection)
    with connection.cursor() as cursor:
        cursor.execute(statement)


def test_an_intact_chain_is_told_with_its_head(events: list[AuditEvent], syslog: Path) -> None:
    told = verify("--syslog", syslog)

    assert f"5 events, chain intact, head 5:{events[-1].hash}" in told
    assert "It fits 5 heads in syslog, the newest of event 5." in told


def test_an_empty_history_is_a_chain_too(db: None) -> None:
    assert "0 events, chain intact\n" in verify("--no-syslog")


def test_the_first_bad_event_is_named(events: list[AuditEvent]) -> None:
    tamper("UPDATE balancer_auditevent SET actor_name = 'nobody' WHERE number >= 3")

    assert why_not("--no-syslog").startswith(f"Event 3 of {events[2].at:%Y-%m-%d %H:%M:%S}+00:00 was edited")


def test_a_cut_tail_is_noticed_against_syslog(syslog: Path) -> None:
    tamper("DELETE FROM balancer_auditevent WHERE number > 3")

    assert "numbers 4 to 5 cut off the end" in why_not("--syslog", syslog)


def test_a_cut_tail_is_noticed_against_a_head_that_is_given(events: list[AuditEvent]) -> None:
    head = f"5:{events[-1].hash}"
    assert "chain intact" in verify("--head", head)
    tamper("DELETE FROM balancer_auditevent WHERE number > 4")

    assert "number 5 cut off the end" in why_not("--head", head)


def test_a_cut_tail_that_was_written_anew_is_noticed(syslog: Path) -> None:
    tamper("DELETE FROM balancer_auditevent WHERE number > 3")
    for _ in range(4):
        audit.record(actor=None, action="test.forged")

    assert why_not("--syslog", syslog).startswith("Event 4 of ")


def test_without_a_head_it_says_that_the_end_is_not_proven(events: list[AuditEvent], tmp_path: Path) -> None:
    empty = tmp_path / "empty.log"
    empty.touch()

    for told in (verify("--no-syslog"), verify("--syslog", empty)):
        assert "chain intact" in told
        assert "may have been cut off the end" in told
        assert "--head NUMBER:HASH" in told


@pytest.mark.parametrize("left", [0, 1])
def test_a_history_that_was_replaced_as_a_whole_has_no_head_of_its_own(left: int, syslog: Path) -> None:
    tamper("DELETE FROM balancer_auditevent")
    for _ in range(left):
        audit.record(actor=None, action="test.forged")

    assert "no head of this chain, and 5 of other chains" in why_not("--syslog", syslog)


def test_heads_of_another_database_beside_ones_own_do_no_harm(
    events: list[AuditEvent], syslog: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.log"
    other.write_text(log_line(AuditEvent(number=9, hash="c" * 64), "d" * 64) + "\n")

    assert "It fits 5 heads" in verify("--syslog", syslog, other)


@pytest.mark.parametrize("head", ["5", "5:abc", "last"])
def test_a_head_that_is_none_is_told(db: None, head: str) -> None:
    assert "NUMBER:HASH" in why_not("--head", head)


def test_a_file_that_cannot_be_read_is_told(db: None, tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    assert f"Cannot read {missing}" in why_not("--syslog", missing)
    assert f"Cannot read the export {missing}" in why_not("--file", missing)


def test_this_hosts_own_logs_are_searched_when_none_is_named(events: list[AuditEvent]) -> None:
    """Whatever this machine has: the chain is new, so no log has a head of it."""
    try:
        told = verify()
    except CommandError as error:
        told = str(error)

    assert "head of this chain" in told


# Exports


def write_export(path: Path, *, without: int = 0) -> Path:
    data = [export_data(event) for event in read_events(AuditEvent.objects.exclude(number=without))]
    path.write_text("".join(json.dumps(line) + "\n" for line in data))
    return path


def test_an_export_is_verified_without_the_database(events: list[AuditEvent], tmp_path: Path) -> None:
    path = write_export(tmp_path / "all.jsonl")
    tamper("DELETE FROM balancer_auditevent")

    assert f"5 events, chain intact, head 5:{events[-1].hash}" in verify("--file", path)


def test_a_filtered_export_is_not_called_forged(events: list[AuditEvent], tmp_path: Path) -> None:
    path = write_export(tmp_path / "some.jsonl", without=2)

    assert "4 events, chain intact, 1 gap where the export leaves events out" in verify("--file", path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"n": 2', '"n": 3', "Event 3 of "),
        ('"facts"', '"fact"', "Event 1 cannot be read any more: the line is not an exported event."),
        ("{", "[", "Event 1 cannot be read any more: line 1 of the file is not JSON."),
        ('"at": "2', '"at": "x', "Event 1 cannot be read any more: its time"),
        ('"number": 2', '"number": "2"', "Event 2 cannot be read any more: its number"),
    ],
)
def test_an_export_that_was_altered_is_told(
    events: list[AuditEvent], tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = write_export(tmp_path / "all.jsonl")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

    assert why_not("--file", path).startswith(told)
