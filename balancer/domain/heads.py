"""The line that carries a head into syslog, and how it is found again.

The line has to survive names that people choose: printable ASCII only, and what is read back stands before
anything that a person chose. A line counts only when the program's name stands where syslog puts it, so that
a text that another program logs (a login that failed, say) is never taken for a head.
"""

import re
from dataclasses import dataclass

from balancer.domain.chain import CHAIN_ID_LENGTH, Head, chain_id

TAG = "lbadmin"
_TRADITIONAL = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
_ISO = r"\d{4}-\d\d-\d\dT[\d:.,]+(?:Z|[+-]\d\d:?\d\d)?"
_LINE = re.compile(
    rf"(?:{_TRADITIONAL}|{_ISO}) \S+ {TAG}(?:\[\d+\])?: audit"
    rf" chain=([0-9a-f]{{{CHAIN_ID_LENGTH}}}) head=([1-9]\d{{0,17}}):([0-9a-f]{{64}})(?:\s|$)"
)
_HEAD = re.compile(r"([1-9]\d{0,17}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class LoggedHead:
    chain: str
    head: Head


def head_line(*, first_hash: str, head: Head, action: str, actor: str) -> str:
    """What is logged after an event; syslog itself puts time, host and `lbadmin:` before it."""
    return f"audit chain={chain_id(first_hash)} head={head} {_printable(action)} by {_printable(actor)}"


def find_head(line: str) -> LoggedHead | None:
    """The head in a line as syslogd writes it to a file, or as `journalctl` prints it."""
    found = _LINE.match(line)
    return LoggedHead(chain=found[1], head=Head(int(found[2]), found[3])) if found else None


def parse_head(text: str) -> Head | None:
    """`NUMBER:HASH` as a value; None where it is something else."""
    found = _HEAD.fullmatch(text.strip())
    return Head(int(found[1]), found[2]) if found else None


def _printable(text: str) -> str:
    return "".join(
        letter if letter.isascii() and letter.isprintable() else ascii(letter)[1:-1] for letter in text
    )
