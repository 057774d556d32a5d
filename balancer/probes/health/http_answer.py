"""As much of HTTP/1.1 (RFC 9112) as a check needs to understand of an answer. Pure."""

import re
from dataclasses import dataclass

MAX_HEAD = 65536
MAX_BODY = 65536
MAX_ANSWER = 2 * (MAX_HEAD + MAX_BODY)
"""Bytes that are read at all: interim answers and the framing of chunks can go on for ever."""
_LENGTH_DIGITS = 18
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_INTERIM = range(100, 200)
_SWITCHING = 101


class NotHttp(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Body:
    data: bytes
    complete: bool


def read_status(data: bytes) -> tuple[int, int] | None:
    """The status, and where its status line begins; None where more must come. Interim answers are left out.

    Raises NotHttp.
    """
    at = 0
    while True:
        found = _STATUS_LINE.match(data, at)
        if found is None:
            if b"\n" in data[at:] or not b"HTTP/1."[: len(data) - at] == data[at : at + 7]:
                raise NotHttp
            if len(data) - at > MAX_HEAD:
                raise NotHttp
            return None
        status = int(found[1])
        if status not in _INTERIM or status == _SWITCHING:
            return status, at
        end = _END_OF_HEAD.search(data, at)
        if end is None:
            return None
        at = end.end()


def read_body(data: bytes, *, at: int, ended: bool) -> Body | None:
    """What has come of the body of the answer that begins at `at`; None where its head is not complete."""
    end = _END_OF_HEAD.search(data, at)
    if end is None:
        return Body(b"", complete=True) if ended or len(data) - at > MAX_HEAD else None
    headers = dict(_header(line) for line in data[at : end.start()].splitlines()[1:])
    body = data[end.end() :]
    if headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
        body, complete = _join_chunks(body)
    else:
        length = headers.get(b"content-length", b"")
        known = int(length) if length.isdigit() and len(length) <= _LENGTH_DIGITS else None
        complete = known is not None and len(body) >= known
        body = body[:known]
    return Body(body[:MAX_BODY], complete=complete or ended or len(body) >= MAX_BODY)


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()


def _join_chunks(data: bytes) -> tuple[bytes, bool]:
    """The chunks so far, the last perhaps in part, and whether the last one was there."""
    body, at = bytearray(), 0
    while (end := data.find(b"\n", at)) >= 0:
        try:
            size = int(data[at:end].split(b";")[0].strip(), 16)
        except ValueError:
            return bytes(body), True  # no length: nothing after it can be understood
        if size <= 0:
            return bytes(body), True
        body += data[end + 1 : end + 1 + size]
        at = end + 1 + size + 2
    return bytes(body), False
