"""The audit history in the console: an event with its link, filters, and the way out as a file."""

import csv
import io
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.http.response import StreamingHttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from balancer.domain.chain import FaultKind, verify_part
from balancer.models import AuditEvent, Change
from balancer.workflow import audit
from balancer.workflow.history import COLUMNS, events_of_data, verify_history
from tests.admin.conftest import Login
from tests.cast import PASSWORD, make_person

LIST = "/balancer/auditevent/"


def fetch(client: Client, kind: str, **query: str) -> str:
    response = client.get(f"{LIST}export.{kind}", query)
    assert isinstance(response, StreamingHttpResponse)
    assert response["Content-Disposition"].endswith(f'.{kind}"')
    return response.getvalue().decode()  # type: ignore[attr-defined]


def json_lines(client: Client, **query: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in fetch(client, "jsonl", **query).splitlines()]


def test_the_page_of_an_event_shows_its_number_source_and_link(
    submitted: Change, login: Login, viewer: User
) -> None:
    with audit.from_source("198.51.100.9"):
        event = audit.record(actor=None, action="test.done", target=submitted)

    page = login(viewer).get(f"{LIST}{event.pk}/change/").content.decode()

    for shown in (f"Event {event.number}", "198.51.100.9", event.hash, event.previous):
        assert shown in page


def test_events_are_found_by_time_and_by_source(db: None, login: Login, viewer: User) -> None:
    now = timezone.now()
    for hours, source in ((100, "192.0.2.1"), (30, "192.0.2.2"), (2, "192.0.2.3"), (0, "192.0.2.4")):
        with audit.from_source(source):
            audit.record(actor=None, action="test.done", at=now - timedelta(hours=hours))
    client = login(viewer)

    assert len(json_lines(client)) == 4
    assert len(json_lines(client, since="week")) == 4
    assert len(json_lines(client, since="day")) == 2
    assert len(json_lines(client, since="hour")) == 1
    assert [line["source"] for line in json_lines(client, q="192.0.2.2")] == ["192.0.2.2"]
    assert client.get(LIST, {"q": "192.0.2.2"}).content.decode().count("field-show_action") == 1


def test_an_export_has_what_the_list_shows_on_all_its_pages(
    submitted: Change, login: Login, viewer: User
) -> None:
    for _ in range(120):
        audit.record(actor=None, action="test.done")
    client = login(viewer)
    page = client.get(LIST, {"actor": "author", "p": "1"}).content.decode()

    (link,) = re.findall(r'href="([^"]*export\.jsonl[^"]*)"', page)
    wanted = AuditEvent.objects.filter(actor_name="author").order_by("number")

    assert link == f"{LIST}export.jsonl?actor=author"
    assert [line["number"] for line in json_lines(client, actor="author")] == [e.number for e in wanted]
    assert len(json_lines(client)) == AuditEvent.objects.count()


def test_an_export_in_json_lines_verifies_by_itself(
    submitted: Change, login: Login, viewer: User, tmp_path: Path
) -> None:
    audit.record(actor=None, action="test.done", facts={"words": "Zoë\n\x00", "third": 1 / 3})
    client = login(viewer)
    whole, part = json_lines(client), json_lines(client, actor="author")

    path = tmp_path / "export.jsonl"
    path.write_text(fetch(client, "jsonl"))
    call_command("audit_verify", "--file", str(path))
    assert verify_part(events_of_data(whole)).gaps == 0
    assert verify_part(events_of_data(part)).fault is None
    assert verify_part(events_of_data(part)).gaps > 0

    whole[1]["actor_name"] = "nobody"
    fault = verify_part(events_of_data(whole)).fault
    assert fault is not None
    assert (fault.kind, fault.number) == (FaultKind.EDITED, 2)


def test_an_export_in_csv_has_every_column_and_no_formula(submitted: Change, login: Login) -> None:
    reader = make_person("reader", "Viewer")
    for name in ("=1+1", "+1", "-1", "@sum", "\tx", 'plain, with "quotes"\n'):
        audit.record(actor=User(username=name), action="test.done")

    rows = list(csv.DictReader(io.StringIO(fetch(login(reader), "csv"), newline="")))

    assert tuple(rows[0]) == COLUMNS
    assert [row["number"] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    assert [row["actor_name"] for row in rows[-6:]] == [
        "'=1+1",
        "'+1",
        "'-1",
        "'@sum",
        "'\tx",
        'plain, with "quotes"\n',
    ]
    assert json.loads(rows[0]["facts"]) == AuditEvent.objects.get(number=1).facts


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_export_is_for_those_who_may_see_the_list(
    kind: str, submitted: Change, login: Login, stranger: User
) -> None:
    assert login(stranger).get(f"{LIST}export.{kind}").status_code == 403
    assert Client().get(f"{LIST}export.{kind}").status_code == 302


def test_an_export_asks_the_database_as_often_for_many_events_as_for_few(
    db: None, login: Login, viewer: User
) -> None:
    client, counts = login(viewer), []
    for more in (1, 300):
        for _ in range(more):
            audit.record(actor=None, action="test.done")
        with CaptureQueriesContext(connection) as captured:
            fetch(client, "jsonl")
        counts.append(len(captured))

    assert counts[0] == counts[1]


def test_a_password_that_an_administrator_sets_is_on_record_in_the_same_transaction(
    login: Login, administrator: User, stranger: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, address = login(administrator), f"/auth/user/{stranger.pk}/password/"
    passwords = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}

    def fail(**_: object) -> None:
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "record", fail)
        with pytest.raises(RuntimeError):
            client.post(address, passwords)
    stranger.refresh_from_db()
    assert not stranger.check_password(PASSWORD)

    client.post(address, passwords)
    stranger.refresh_from_db()
    assert stranger.check_password(PASSWORD)
    event = AuditEvent.objects.get(action="person.updated")
    assert (event.actor_name, event.object_label, event.source) == ("administrator", "stranger", "127.0.0.1")
    assert verify_history().fault is None
