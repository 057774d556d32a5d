"""`python -m balancer.lab.client`: bounded clients. Standard library only; runs inside the client namespace.

One line of JSON on standard input says what to do, one line on standard output says what came of it:
`{"answered": {"10.0.0.3:80": 100}, "peers": {"10.0.0.1": 100}, "lost": {"refused": 3}, "slowest": 0.01,
"seconds": 0.2}`. `run_background` writes its counts to a file instead, until standard input ends.
"""

import json
import os
import select
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any

REFUSED = "refused"
TIMED_OUT = "timed out"
_FIRST_PORT = 1024
_PORTS = 64000
_REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
_STATUS_SECONDS = 0.5


@dataclass(slots=True)
class Tally:
    answered: Counter[str] = field(default_factory=Counter)
    """Backend (`10.0.0.3:80`) -> answers."""
    peers: Counter[str] = field(default_factory=Counter)
    """Address that the backend saw -> answers."""
    lost: Counter[str] = field(default_factory=Counter)
    """What became of the others: refused, timed out, or the system's own words."""
    slowest: float = 0.0
    """Seconds of the slowest attempt, lost ones included."""

    def add(self, *, outcome: "bytes | OSError", seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)
        if isinstance(outcome, OSError):
            self.lost[_name_error(outcome)] += 1
            return
        try:
            answer = json.loads(outcome)
        except ValueError:
            self.lost["cut short"] += 1
            return
        self.answered[answer["backend"]] += 1
        self.peers[answer["peer"].rpartition(":")[0].strip("[]")] += 1

    def to_data(self) -> dict[str, Any]:
        return {"answered": self.answered, "peers": self.peers, "lost": self.lost, "slowest": self.slowest}


@dataclass(frozen=True, slots=True)
class Flow:
    number: int
    source: str

    @property
    def port(self) -> int:
        """A source port of its own, so that no older connection tracking entry decides for this flow.

        Nor is one forgotten for it: a TCP port that comes back ends the old entry, whose masqueraded port is
        then given out while a backend still has it in TIME_WAIT.
        """
        return _FIRST_PORT + self.number % _PORTS


def main() -> None:
    order = json.loads(sys.stdin.readline())
    kind = order.pop("kind")
    if kind == "background":
        run_background(**order)
        return
    started = time.monotonic()
    tally = run_connections(**order) if kind == "tcp" else run_datagrams(**order)
    print(json.dumps({**tally.to_data(), "seconds": time.monotonic() - started}), flush=True)


def run_connections(
    *,
    address: str,
    port: int,
    count: int,
    first: int,
    sources: list[str],
    timeout: float,
    concurrency: int,
) -> Tally:
    """`count` TCP connections, one after the other or up to `concurrency` at once, each from a source port
    of its own."""
    tally, lock = Tally(), threading.Lock()
    flows = islice(_number_flows(first=first, sources=sources), count)

    def work() -> None:
        while True:
            with lock:
                flow = next(flows, None)
            if flow is None:
                return
            started = time.monotonic()
            outcome = open_connection(target=(address, port), flow=flow, timeout=timeout)
            with lock:
                tally.add(outcome=outcome, seconds=time.monotonic() - started)

    workers = [threading.Thread(target=work) for _ in range(min(concurrency, count))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return tally


def open_connection(*, target: tuple[str, int], flow: Flow, timeout: float) -> bytes | OSError:
    """The body of the answer, or why there is none."""
    own = (flow.source, flow.port)
    try:
        with socket.create_connection(target, timeout=timeout, source_address=own) as connection:
            connection.sendall(_REQUEST)
            received = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        return error
    return received.partition(b"\r\n\r\n")[2]


def run_datagrams(
    *,
    address: str,
    port: int,
    count: int,
    first: int,
    sources: list[str],
    timeout: float,
    concurrency: int,
) -> Tally:
    """`count` UDP flows of one datagram each, every one from a source port of its own."""
    tally = Tally()
    flows = islice(_number_flows(first=first, sources=sources), count)
    waiting: dict[socket.socket, float] = {}
    with selectors.DefaultSelector() as selector:
        while True:
            for flow in islice(flows, concurrency - len(waiting)):
                sender = _send_datagram(target=(address, port), flow=flow, tally=tally)
                if sender is not None:
                    waiting[sender] = time.monotonic()
                    selector.register(sender, selectors.EVENT_READ)
            if not waiting:
                return tally
            oldest = next(iter(waiting.values()))
            for key, _ in selector.select(timeout=max(0.0, oldest + timeout - time.monotonic())):
                _finish(key.fileobj, selector=selector, waiting=waiting, tally=tally)
            late = [sender for sender, sent in waiting.items() if time.monotonic() - sent >= timeout]
            for sender in late:
                _finish(sender, selector=selector, waiting=waiting, tally=tally)


def run_background(
    *, targets: list[tuple[str, int]], sources: list[str], per_second: float, timeout: float, status: str
) -> None:
    """One connection at a time to each target in turn, until standard input ends."""
    tallies = {f"{address}:{port}": Tally() for address, port in targets}
    flows = _number_flows(first=0, sources=sources)
    started = written = time.monotonic()
    number = 0
    while not _input_ended(wait=started + number / per_second - time.monotonic()):
        address, port = targets[number % len(targets)]
        begun = time.monotonic()
        outcome = open_connection(target=(address, port), flow=next(flows), timeout=timeout)
        tallies[f"{address}:{port}"].add(outcome=outcome, seconds=time.monotonic() - begun)
        number += 1
        # A target that hung must not be made up for with a burst.
        started = max(started, time.monotonic() - number / per_second)
        if time.monotonic() - written >= _STATUS_SECONDS:
            _write_status(path=Path(status), tallies=tallies)
            written = time.monotonic()
    _write_status(path=Path(status), tallies=tallies)


def _number_flows(*, first: int, sources: list[str]) -> Iterator[Flow]:
    # The address moves on when the ports begin again, so that (address, port) does not come back.
    return (
        Flow(number=number, source=sources[(number + number // _PORTS) % len(sources)])
        for number in count_from(first)
    )


def _send_datagram(*, target: tuple[str, int], flow: Flow, tally: Tally) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sender.bind((flow.source, flow.port))
        sender.connect(target)
        sender.send(b"?")
    except OSError as error:
        sender.close()
        tally.add(outcome=error, seconds=0.0)
        return None
    return sender


def _finish(
    sender: Any, *, selector: selectors.BaseSelector, waiting: dict[socket.socket, float], tally: Tally
) -> None:
    outcome: bytes | OSError
    try:
        outcome = sender.recv(2048)
    except BlockingIOError:
        outcome = TimeoutError()
    except OSError as error:
        outcome = error
    tally.add(outcome=outcome, seconds=time.monotonic() - waiting.pop(sender))
    selector.unregister(sender)
    sender.close()


def _name_error(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return REFUSED
    if isinstance(error, TimeoutError):
        return TIMED_OUT
    return (error.strerror or type(error).__name__).lower()


def _input_ended(*, wait: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], max(0.0, wait))
    return bool(ready)


def _write_status(*, path: Path, tallies: dict[str, Tally]) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(
        json.dumps({"updated": time.time(), "targets": {name: t.to_data() for name, t in tallies.items()}})
    )
    draft.rename(path)


if __name__ == "__main__":
    main()
