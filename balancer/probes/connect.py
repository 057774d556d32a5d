"""Many TCP connections at once, each only opened and reset again. Standard library only: the child of
`way` runs it too."""

import errno
import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

ATTEMPT_SECONDS = 1.0
CONCURRENCY = 200
"""Sockets at once, far below the 1,024 descriptors that a process usually may have."""
_WIDTH = 16
"""Attempts at once for one key, once its first has failed."""
# A reset leaves nothing to be said after the probe's addresses are gone, and no TIME_WAIT anywhere.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    key: str
    """Attempts of one key end with the first that is accepted."""
    address: str
    port: int
    source: str = ""
    device: str = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    tried: int = 0
    refused: int = 0
    """Answered with a reset or an ICMP error; neither refused nor accepted is silence."""
    milliseconds: float | None = None
    """Of the accepted one; None where none was."""
    local_port: int = 0
    """Of the accepted one; before that, of the last one that nobody answered."""

    @property
    def accepted(self) -> bool:
        return self.milliseconds is not None


def connect_all(attempts: Iterable[Attempt], *, seconds: float) -> dict[str, Tally]:
    """What became of the attempts of each key, after at most about `seconds`; none is left open."""
    run = _Run(attempts, deadline=time.monotonic() + seconds)
    with run.selector:
        try:
            run.finish()
        finally:
            run.close_all()
    return run.tallies


@dataclass(slots=True)
class _Open:
    attempt: Attempt
    started: float


class _Run:
    def __init__(self, attempts: Iterable[Attempt], *, deadline: float) -> None:
        self.selector = selectors.DefaultSelector()
        self.tallies: dict[str, Tally] = {}
        self._waiting: dict[str, deque[Attempt]] = {}
        self._open: dict[socket.socket, _Open] = {}
        self._at_once: dict[str, int] = {}
        self._deadline = deadline
        for attempt in attempts:
            self._waiting.setdefault(attempt.key, deque()).append(attempt)
            self.tallies.setdefault(attempt.key, Tally())

    def finish(self) -> None:
        while time.monotonic() < self._deadline:
            self._open_more()
            if not self._open:
                return
            oldest = min(one.started for one in self._open.values()) + ATTEMPT_SECONDS
            pause = min(oldest, self._deadline) - time.monotonic()
            for key, _ in self.selector.select(timeout=max(0.0, pause)):
                if key.fileobj in self._open:  # else closed with another of its key
                    self._end(key.fileobj)
            now = time.monotonic()
            for late in [s for s, one in self._open.items() if now - one.started >= ATTEMPT_SECONDS]:
                self._give_up(late)

    def close_all(self) -> None:
        for left in list(self._open):
            self._give_up(left)

    def _open_more(self) -> None:
        """One for each key in turn, so that a key with many attempts holds up no other."""
        begun = True
        while begun and len(self._open) < CONCURRENCY:
            begun = False
            for key, waiting in self._waiting.items():
                tally = self.tallies[key]
                width = _WIDTH if tally.tried > self._at_once.get(key, 0) else 1
                if waiting and not tally.accepted and self._at_once.get(key, 0) < width:
                    begun = True
                    self._begin(waiting.popleft())
                    if len(self._open) >= CONCURRENCY:
                        return

    def _begin(self, attempt: Attempt) -> None:
        self.tallies[attempt.key].tried += 1
        family = socket.AF_INET6 if ":" in attempt.address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            if attempt.device:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(attempt.device))
            if attempt.source:
                opened.bind((attempt.source, 0))
            started = time.monotonic()
            code = opened.connect_ex((attempt.address, attempt.port))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except OSError:
            self.tallies[attempt.key].refused += 1
            opened.close()
            return
        self._open[opened] = _Open(attempt, started)
        self._at_once[attempt.key] = self._at_once.get(attempt.key, 0) + 1
        self.selector.register(opened, selectors.EVENT_WRITE)

    def _end(self, opened: socket.socket) -> None:
        one = self._open[opened]
        tally = self.tallies[one.attempt.key]
        if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            tally.refused += 1
            self._close(opened)
            return
        tally.milliseconds = round((time.monotonic() - one.started) * 1000, 1)
        tally.local_port = opened.getsockname()[1]
        for same in [s for s, other in self._open.items() if other.attempt.key == one.attempt.key]:
            self._close(same)

    def _give_up(self, opened: socket.socket) -> None:
        tally = self.tallies[self._open[opened].attempt.key]
        if not tally.accepted:
            tally.local_port = opened.getsockname()[1]
        self._close(opened)

    def _close(self, opened: socket.socket) -> None:
        one = self._open.pop(opened)
        self._at_once[one.attempt.key] -= 1
        self.selector.unregister(opened)
        opened.close()
