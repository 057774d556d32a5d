"""A steady load of short TCP connections, and a server for it: `python -m tests.kernel.load client|server`.

One epoll loop each, so that a fraction of a core does. The client begins connections at a steady rate, from
one source address after the other, until its standard input ends; then it waits for those that are under way
and prints what became of all. Standard library only.
"""

import errno
import json
import select
import socket
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

REQUEST, ANSWER = b"ask\n", b"answer\n"
TIMEOUT = 20.0
_NO_PORT_YET = 24
"""IP_BIND_ADDRESS_NO_PORT of ip(7)."""
_LISTEN = 1024
_AT_ONCE = 200
"""Connections under way: fewer than the server's backlog, so that none is lost for want of a place there."""
_LATE = 0.1
"""Seconds that the client may be behind before it lets them go."""


def main() -> None:
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]), takes=float(sys.argv[3]))
    else:
        report = Load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]).run()
        print(json.dumps({name: getattr(report, name) for name in Report.__slots__}))


def serve(port: int, *, takes: float) -> None:
    """Answers one request on each connection after some seconds and closes it, until standard input ends."""
    listener = socket.create_server(("", port), backlog=_LISTEN)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    open_now: dict[int, socket.socket] = {}
    asked: deque[tuple[float, socket.socket]] = deque()
    print("ready", flush=True)
    while True:
        while asked and asked[0][0] <= time.monotonic():
            _answer(asked.popleft()[1])
        for descriptor, _ in poll.poll(max(0, asked[0][0] - time.monotonic()) if asked else None):
            if descriptor == sys.stdin.fileno():
                return
            if descriptor == listener.fileno():
                accepted = listener.accept()[0]
                open_now[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)
                continue
            poll.unregister(descriptor)
            asked.append((time.monotonic() + takes, open_now.pop(descriptor)))


def _answer(connection: socket.socket) -> None:
    """Whoever hung up, or was cut off, gets none."""
    with connection, suppress(OSError):
        if connection.recv(64):
            connection.sendall(ANSWER)


@dataclass(slots=True)
class Report:
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """What became of the others: the name of the error, `timeout` or `cut short`."""
    failed_from: list[str] = field(default_factory=list)
    """Their own addresses and ports."""
    seconds: float = 0.0
    """In which connections were begun."""


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    begun: float
    received: bytes = b""


class Load:
    def __init__(self, address: str, port: int, a_second: float, first_source: str) -> None:
        self._target = (address, port)
        self._rate = a_second
        self._source = int(ip_address(first_source))
        self._begun = 0
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._report = Report()

    def run(self) -> Report:
        self._poll.register(sys.stdin, select.EPOLLIN)
        print("ready", flush=True)
        started = due = time.monotonic()
        while not self._step(wait=due - time.monotonic()):
            now = time.monotonic()
            # Time in which the machine did something else is not made up for with a burst.
            due = max(due, now - _LATE)
            while due <= now and len(self._open) < _AT_ONCE:
                self._begin()
                due += 1 / self._rate
            self._end_late_ones(now)
        self._report.seconds = time.monotonic() - started
        self._poll.unregister(sys.stdin)
        while self._open:
            self._step(wait=0.1)
            self._end_late_ones(time.monotonic())
        return self._report

    def _step(self, *, wait: float) -> bool:
        """True when standard input has ended."""
        ended = False
        for descriptor, event in self._poll.poll(max(wait, 0.001)):
            if descriptor == sys.stdin.fileno():
                ended = True
            else:
                self._go_on(descriptor, event)
        return ended

    def _end_late_ones(self, now: float) -> None:
        while self._open:
            descriptor, oldest = next(iter(self._open.items()))
            if now - oldest.begun < TIMEOUT:
                return
            self._end(descriptor, "timeout")

    def _begin(self) -> None:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        opened.setsockopt(socket.IPPROTO_IP, _NO_PORT_YET, 1)
        opened.bind((str(ip_address(self._source + self._begun % 10_000)), 0))
        self._begun += 1
        self._open[opened.fileno()] = _Connection(opened, time.monotonic())
        found = opened.connect_ex(self._target)
        if found not in {0, errno.EINPROGRESS}:
            self._open.pop(opened.fileno())
            self._report.failed[errno.errorcode[found]] += 1
            opened.close()
            return
        self._poll.register(opened, select.EPOLLOUT)

    def _go_on(self, descriptor: int, event: int) -> None:
        connection = self._open[descriptor]
        try:
            if event & select.EPOLLOUT:
                connection.socket.send(REQUEST)
                self._poll.modify(descriptor, select.EPOLLIN)
                return
            part = connection.socket.recv(64)
        except OSError as error:
            self._end(descriptor, errno.errorcode.get(error.errno or 0, "error"))
            return
        connection.received += part
        if not part:
            self._end(descriptor, None if connection.received == ANSWER else "cut short")

    def _end(self, descriptor: int, failure: str | None) -> None:
        self._poll.unregister(descriptor)
        with self._open.pop(descriptor).socket as ended:
            if failure is None:
                self._report.answered += 1
            else:
                self._report.failed[failure] += 1
                self._report.failed_from.append("{}:{}".format(*ended.getsockname()))


if __name__ == "__main__":
    main()
