"""The audit history on both databases: one chain however many write it, and no way past it unnoticed."""

import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.test import Client

from balancer.kernel.fake import FakeKernel
from balancer.models import AuditEvent, history
from balancer.workflow import audit
from balancer.workflow.clusters import create_cluster
from balancer.workflow.deployments import apply_change
from balancer.workflow.editing import open_change
from balancer.workflow.errors import Refused
from balancer.workflow.history import verify_history
from tests.cast import make_person
from tests.documents import service_data
from tests.stack.machinery import ROOT, Stack
from tests.stack.site import make_site
from tests.stack.together import AT_ONCE, at_once, both_databases, tick
from tests.syslog import Syslog, heads_go_to

TABLE = "balancer_auditevent"
LENGTH = 12

# Many writers


@both_databases
def test_events_that_are_recorded_at_once_are_one_chain(stack: Stack) -> None:
    """By people whose deeds lock rows, by workers, and by transactions with many events."""
    site = make_site("lb1")
    site.kernels = {"lb1": FakeKernel()}
    changes = [site.approved(service_data(f"s{i}", port=1000 + i)) for i in range(AT_ONCE)]

    at_once(
        *(lambda c=change: apply_change(actor=site.operator, change=c) for change in changes),
        *[record_together, record_one_by_one] * 2,
        *[lambda: tick("lb1", kernel=site.kernels["lb1"])] * 2,
    )

    numbers = list(AuditEvent.objects.order_by("pk").values_list("number", flat=True))
    assert numbers == list(range(1, len(numbers) + 1))
    assert verify_history().fault is None
    assert AuditEvent.objects.filter(action="test.one").count() == 2 * LENGTH
    together = AuditEvent.objects.filter(action="test.together").order_by("number")
    starts = [event.number for event in together if event.facts["n"] == 0]
    assert [event.number for event in together] == [start + n for start in starts for n in range(LENGTH)]


@both_databases
def test_accounts_that_are_deleted_while_they_act_lead_to_no_deadlock(stack: Stack) -> None:
    """Django's admin locks the account's row, a deed of that person refers to it; both record an event."""
    site = make_site("lb1")
    administrator = make_person("adm", "Administrator")
    people = [make_person(f"p{i}", "Editor") for i in range(AT_ONCE)]

    results = at_once(
        *(lambda p=person: open_change_if_there(p, site.cluster) for person in people),
        *(lambda p=person: delete_account(p, administrator) for person in people),
    )

    opened, answers = results[:AT_ONCE], results[AT_ONCE:]
    # An account that has written a change cannot be deleted: the page says so.
    assert set(answers) <= {200, 302}
    left = set(User.objects.values_list("pk", flat=True))
    assert AuditEvent.objects.filter(action="change.opened").count() == sum(opened)
    assert AuditEvent.objects.filter(action="person.deleted").count() == len({p.pk for p in people} - left)
    assert sum(opened) + len({p.pk for p in people} - left) == AT_ONCE
    assert verify_history().fault is None


def record_together() -> None:
    with audit.writing():
        for n in range(LENGTH):
            audit.record(actor=None, action="test.together", facts={"n": n})


def record_one_by_one() -> None:
    for _ in range(LENGTH):
        with audit.writing():
            audit.record(actor=None, action="test.one")


def open_change_if_there(person: User, cluster: Any) -> bool:
    """False where the account was deleted before."""
    try:
        open_change(actor=person, cluster=cluster, title="Mine")
    except (IntegrityError, Refused):
        return False
    return True


def delete_account(person: User, administrator: User) -> int:
    client = Client()
    client.force_login(administrator)
    return client.post(f"/auth/user/{person.pk}/delete/", {"post": "yes"}).status_code


# Raw SQL

TAMPERING = {
    "edited": (f"UPDATE {TABLE} SET facts = '{{}}' WHERE number = 8", "Event 8 of "),
    "deleted": (f"DELETE FROM {TABLE} WHERE number = 8", "Event 8 is missing"),
    "renumbered": (f"UPDATE {TABLE} SET number = number + 100 WHERE number = 8", "Event 8 is missing"),
    "reordered": (
        f"UPDATE {TABLE} SET id = CASE number WHEN 8 THEN 1009 ELSE 1008 END WHERE number IN (8, 9)",
        "Event 9 of ",
    ),
    "cut off": (f"DELETE FROM {TABLE} WHERE number > 8", "Event 9 is missing"),
    "emptied": (f"DELETE FROM {TABLE}", "no head of this chain, and 12 of other chains"),
    "truncated": (f"TRUNCATE {TABLE}", "no head of this chain, and 12 of other chains"),
    "written anew": (
        f"UPDATE {TABLE} SET actor_name = 'nobody', hash = previous, previous = hash WHERE number > 8",
        "Event 9 of ",
    ),
}
ON_BOTH = [(name, url) for name in TAMPERING for url in ("sqlite", "postgresql")]
ON_BOTH.remove(("truncated", "sqlite"))  # which has no TRUNCATE


@pytest.mark.parametrize(("name", "database_url"), ON_BOTH, indirect=["database_url"])
def test_a_history_that_is_tampered_with_is_refused_by_the_database_and_found_past_its_triggers(
    stack: Stack, name: str
) -> None:
    log = write_history(stack)
    statement, told = TAMPERING[name]
    before = list(AuditEvent.objects.order_by("pk").values_list())

    with pytest.raises(IntegrityError, match="append-only"):
        run_sql(statement)
    assert list(AuditEvent.objects.order_by("pk").values_list()) == before
    assert audit_verify(log) == (0, f"{LENGTH} events, chain intact, head {LENGTH}:{before[-1][-1]}")

    history.uninstall(connection=connection)
    run_sql(statement)
    status, said = audit_verify(log)
    assert status == 1
    assert told in said
    if name == "edited":
        assert audit_verify_from_a_shell(stack, log) == (status, said)


def write_history(stack: Stack) -> Path:
    """A few events, and the log that a syslogd has written of them."""
    syslog, lines, log = Syslog(stack.directory / "log"), [], stack.directory / "auth.log"
    with heads_go_to(stack.directory / "log"):
        create_cluster(actor=None, name="edge")
        for n in range(1, LENGTH):
            with audit.writing():
                audit.record(actor=None, action="test.done", facts={"n": n})
            lines += syslog.lines()  # the kernel keeps ten
    syslog.close()
    log.write_text("\n".join(lines) + "\n")
    return log


def audit_verify(log: Path) -> tuple[int, str]:
    """What it would exit with, and the first line that it prints."""
    out = StringIO()
    try:
        call_command("audit_verify", "--syslog", str(log), stdout=out)
    except CommandError as error:
        return error.returncode, str(error).splitlines()[0]
    return 0, out.getvalue().splitlines()[0]


def audit_verify_from_a_shell(stack: Stack, log: Path) -> tuple[int, str]:
    """The same from a process of its own."""
    command = [sys.executable, "manage.py", "audit_verify", "--syslog", str(log)]
    done = subprocess.run(command, cwd=ROOT, env=stack.env, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout or done.stderr).splitlines()[0].removeprefix("CommandError: ")


def run_sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
