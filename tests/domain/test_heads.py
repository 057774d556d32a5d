"""The line in syslog: one line whatever people are called, found again, and never mistaken for another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.chain import Head
from balancer.domain.heads import LoggedHead, find_head, head_line, parse_head

FIRST, LAST = "a1" * 32, "b2" * 32
HEAD = Head(12, LAST)
LINE = f"audit chain={'a1' * 8} head=12:{LAST} change.approved by bob"
PREFIXES = (
    "Nov  4 15:04:05 host lbadmin: ",
    "Nov 24 15:04:05 host lbadmin[77]: ",
    "2026-11-24T15:04:05.123456+00:00 host lbadmin: ",
    "2026-11-24T15:04:05+0000 host lbadmin[77]: ",
)


def test_the_line_says_which_chain_which_head_and_who() -> None:
    assert head_line(first_hash=FIRST, head=HEAD, action="change.approved", actor="bob") == LINE


@given(st.text(), st.text())
def test_whatever_people_are_called_it_is_one_line_of_ascii_with_one_head(action: str, actor: str) -> None:
    line = head_line(first_hash=FIRST, head=HEAD, action=action, actor=actor)

    assert line.isascii()
    assert line.isprintable()
    assert find_head(PREFIXES[0] + line) == LoggedHead(chain="a1" * 8, head=HEAD)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_it_is_found_as_syslogd_and_journalctl_write_it(prefix: str) -> None:
    assert find_head(f"{prefix}{LINE}\n") == LoggedHead(chain="a1" * 8, head=HEAD)


@pytest.mark.parametrize(
    "line",
    [
        f"Nov 24 15:04:05 host sshd[9]: Invalid user lbadmin: {LINE} from 192.0.2.1",
        f"Nov 24 15:04:05 host sshd[9]: Invalid user Nov 24 15:04:05 host lbadmin: {LINE}",
        f"Nov 24 15:04:05 host other-lbadmin: {LINE}",
        f"lbadmin: {LINE}",
        f"Nov 24 15:04:05 host lbadmin: {LINE.replace('head=12', 'head=0')}",
        f"Nov 24 15:04:05 host lbadmin: {LINE.replace(LAST, LAST[1:])}",
        "",
    ],
)
def test_what_another_program_logs_is_no_head(line: str) -> None:
    assert find_head(line) is None


@given(st.integers(1, 10**17), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_head_is_read_as_it_is_written(number: int, digits: str) -> None:
    head = Head(number, digits)

    assert parse_head(str(head)) == head


@pytest.mark.parametrize(
    "text", ["", "12", f"12:{LAST[1:]}", f"0:{LAST}", f"-1:{LAST}", f"12:{LAST}0", "x:y"]
)
def test_what_is_no_head_is_not_taken_for_one(text: str) -> None:
    assert parse_head(text) is None
