"""UDP clients that keep one socket each and go on asking, whatever happens to what they ask."""

import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

A_SECOND = 50
GRACE = 0.2
"""Seconds of silence after the last question: an answer that has not come by then never does."""


@dataclass
class Chatter:
    """One client; its questions are numbered, and an answer is the question with where it was answered."""

    socket: socket.socket
    sent: list[float] = field(default_factory=list)
    """When question 0, 1, … was sent."""
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    """When, to which question, by which address."""
    refusals: list[float] = field(default_factory=list)

    def ask(self) -> None:
        number, now = len(self.sent), time.monotonic()
        self.sent.append(now)
        try:
            self.socket.send(number.to_bytes(4, "big"))
        except ConnectionRefusedError:
            self.refusals.append(now)

    def listen(self) -> None:
        now = time.monotonic()
        try:
            data = self.socket.recv(100)
        except ConnectionRefusedError:
            self.refusals.append(now)
        else:
            self.answers.append((now, int.from_bytes(data[:4], "big"), data[4:].decode()))

    def answered_by(self, *, since: float = 0) -> set[str]:
        return {by for when, _, by in self.answers if when >= since}

    def waited(self, *, since: float) -> float:
        """Seconds until a question that was asked after `since` was answered; infinite where none was."""
        found = (when - since for when, number, _ in self.answers if self.sent[number] >= since)
        return min(found, default=float("inf"))

    def refused_after(self, since: float) -> float:
        """Seconds until the first refusal after `since`; infinite where there was none."""
        return min((when - since for when in self.refusals if when >= since), default=float("inf"))

    @property
    def silence(self) -> float:
        """The longest time in seconds between two answers."""
        times = [when for when, _, _ in self.answers]
        return max((b - a for a, b in pairwise(times)), default=float("inf"))

    @property
    def lost(self) -> int:
        """Questions without an answer, once the chat is over."""
        return len(set(range(len(self.sent))) - {number for _, number, _ in self.answers})


class Chat:
    """Asks and answers in a thread of its own: sockets know their namespace."""

    def __init__(self, clients: Iterable[socket.socket], servers: Iterable[socket.socket]) -> None:
        self.chatters = [Chatter(client) for client in clients]
        self._servers = {server: str(server.getsockname()[0]) for server in servers}
        self._over = threading.Event()

    @contextmanager
    def going_on(self) -> Iterator[list[Chatter]]:
        thread = threading.Thread(target=self._talk)
        thread.start()
        try:
            yield self.chatters
        finally:
            self._over.set()
            thread.join()

    def _talk(self) -> None:
        poll, due = select.poll(), time.monotonic()
        ends: dict[int, Chatter | socket.socket] = {c.socket.fileno(): c for c in self.chatters}
        ends |= {server.fileno(): server for server in self._servers}
        for descriptor in ends:
            poll.register(descriptor, select.POLLIN)
        while not self._over.is_set():
            self._hear(ends, poll.poll(max(0.0, due - time.monotonic()) * 1000))
            if time.monotonic() >= due:
                due += 1 / A_SECOND
                for chatter in self.chatters:
                    chatter.ask()
        while ready := poll.poll(GRACE * 1000):
            self._hear(ends, ready)

    def _hear(self, ends: dict[int, Chatter | socket.socket], ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            end = ends[descriptor]
            if isinstance(end, Chatter):
                end.listen()
            else:
                data, peer = end.recvfrom(100)
                end.sendto(data + self._servers[end].encode(), peer)
