"""As much of HTTP/1.1 (RFC 9112) as a check needs to understand of an answer. Pure.

Each byte is looked at once, however many pieces they come in: whoever sends thousands of tiny chunks must not
hold up the checks of others.
"""

import re
from collections.abc import Callable

MAX_HEAD = 65536
MAX_BODY = 65536
MAX_ANSWER = 2 * (MAX_HEAD + MAX_BODY)
"""Bytes that are read at all: interim answers and the framing of chunks can go on for ever."""
_LENGTH_DIGITS = 18
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_BEGINS = b"HTTP/1."
_INTERIM = range(100, 200)
_SWITCHING = 101
_WITHOUT_BODY = {204, 304}


class NotHttp(Exception):
    pass


class Answer:
    """What has come of one. Interim answers are left out."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.body = bytearray()
        """No more than MAX_BODY of it; chunks are put together."""
        self.complete = False
        """Nothing more of the body is to come."""
        self._rest = bytearray()
        self._head = 0
        self._headers: dict[bytes, bytes] = {}
        self._left: int | None = None
        """Bytes of the body, or of the chunk, that are to come; None: until the end of the connection."""
        self._step: Callable[[], bool] = self._read_status

    def feed(self, data: bytes) -> None:
        """Raises NotHttp."""
        self._rest += data
        while not self.complete and self._step():
            pass

    def _read_status(self) -> bool:
        line = self._line()
        if line is None:
            if not _BEGINS.startswith(self._rest[: len(_BEGINS)]) or len(self._rest) > MAX_HEAD:
                raise NotHttp
            return False
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise NotHttp
        status = int(found[1])
        if status not in _INTERIM or status == _SWITCHING:
            self.status = status
        self._step = self._read_header
        return True

    def _read_header(self) -> bool:
        line = self._line()
        if line is None:
            self._head_is_too_long(len(self._rest))
            return False
        if line.strip(b"\r\n"):
            name, _, value = line.partition(b":")
            self._headers[name.strip().lower()] = value.strip()
            self._head += len(line)
            self._head_is_too_long(0)
        elif self.status is None:
            self._head, self._headers, self._step = 0, {}, self._read_status
        else:
            self._begin_body()
        return True

    def _head_is_too_long(self, more: int) -> None:
        """Then there is no body: one that is interim ends with `MAX_ANSWER`."""
        if self.status is not None and self._head + more > MAX_HEAD:
            self.complete = True

    def _begin_body(self) -> None:
        length = self._headers.get(b"content-length", b"")
        if self.status in _WITHOUT_BODY:
            self.complete = True
        elif self._headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
            self._step = self._read_chunk_size
        else:
            self._left = int(length) if length.isdigit() and len(length) <= _LENGTH_DIGITS else None
            self._step = self._read_body

    def _read_body(self) -> bool:
        self._take(len(self._rest))
        self.complete = self.complete or self._left == 0
        return False

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        try:
            self._left = int(line.split(b";")[0].strip(), 16)
        except ValueError:
            self._left = 0  # no length: nothing after it can be understood
        self.complete = self._left <= 0
        self._step = self._read_chunk
        return True

    def _read_chunk(self) -> bool:
        self._take(len(self._rest))
        if self._left:
            return False
        self._step = self._read_end_of_chunk
        return True

    def _read_end_of_chunk(self) -> bool:
        if self._line() is None:
            return False
        self._step = self._read_chunk_size
        return True

    def _take(self, size: int) -> None:
        """Of what has come, into the body."""
        if self._left is not None:
            size = min(size, self._left)
            self._left -= size
        self.body += self._rest[: min(size, MAX_BODY - len(self.body))]
        del self._rest[:size]
        self.complete = len(self.body) >= MAX_BODY

    def _line(self) -> bytes | None:
        end = self._rest.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._rest[: end + 1])
        del self._rest[: end + 1]
        return line
