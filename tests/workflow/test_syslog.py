"""Heads reach a syslogd as soon as there is one, and a deed never waits for it or fails of it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

from balancer.domain.chain import Head, chain_id
from balancer.domain.heads import LoggedHead, find_head
from balancer.models import AuditEvent
from balancer.workflow import audit
from lbadmin.syslog import PATIENCE, HeadHandler
from tests.stack.machinery import short_directory
from tests.stopwatch import Stopwatch
from tests.syslog import HEADS, Syslog, heads_go_to

AUTHPRIV_INFO = b"<86>"
"""Facility 10, severity 6: RFC 5424, section 6.2.1."""


@pytest.fixture
def path() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory / "log"


@pytest.fixture
def handler(path: Path) -> Iterator[HeadHandler]:
    """Before there is a syslogd."""
    with heads_go_to(path) as found:
        yield found


@pytest.mark.django_db(transaction=True)
def test_the_head_of_every_event_is_in_syslog_after_the_commit(path: Path, handler: HeadHandler) -> None:
    syslog = Syslog(path)
    with audit.writing():
        audit.record(actor=None, action="test.first")
        assert syslog.datagrams() == []
        audit.record(actor=None, action="test.second")

    lines = syslog.lines()
    first, second = AuditEvent.objects.order_by("number")
    chain = chain_id(first.hash)
    assert [find_head(line) for line in lines] == [
        LoggedHead(chain=chain, head=Head(event.number, event.hash)) for event in (first, second)
    ]
    syslog.close()


@pytest.mark.django_db(transaction=True)
def test_what_was_rolled_back_is_not_in_syslog(path: Path, handler: HeadHandler) -> None:
    syslog = Syslog(path)
    with pytest.raises(ZeroDivisionError), audit.writing():
        audit.record(actor=None, action=f"test.{1 // 0}")

    assert syslog.datagrams() == []
    syslog.close()


def test_it_is_one_message_of_the_facility_authpriv(path: Path, handler: HeadHandler) -> None:
    syslog = Syslog(path)
    HEADS.info("%s", "audit chain=…")

    (datagram,) = syslog.datagrams()
    assert datagram.startswith(AUTHPRIV_INFO + b"lbadmin: audit chain=")
    syslog.close()


def test_without_a_syslogd_nothing_happens_and_with_a_new_one_heads_go_on(
    path: Path, handler: HeadHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    HEADS.info("nobody listens")
    first = Syslog(path)
    HEADS.info("the first listens")
    assert len(first.datagrams()) == 1
    first.close()
    path.unlink()
    HEADS.info("nobody listens")
    second = Syslog(path)
    HEADS.info("the second listens")

    assert [line.partition("lbadmin: ")[2] for line in second.lines()] == ["the second listens"]
    assert capsys.readouterr().err == ""
    second.close()


def test_a_syslogd_that_takes_nothing_is_not_waited_for(path: Path, handler: HeadHandler) -> None:
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    deaf.bind(str(path))

    watch = Stopwatch()
    for _ in range(2_000):
        HEADS.info("%s", "x" * 200)

    # One message waits, in the first try and in the one after connecting again; all others do not.
    assert watch.own < 2 * PATIENCE + 1.5
    deaf.close()


def test_the_system_check_says_that_heads_are_kept_nowhere(path: Path, settings: Settings) -> None:
    settings.LBADMIN_SYSLOG = str(path)
    assert [(found.id, str(path) in found.msg) for found in run_checks()] == [("lbadmin.W001", True)]

    syslog = Syslog(path)
    assert run_checks() == []
    syslog.close()
