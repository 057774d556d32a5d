"""`python -m balancer.lab.client`: bounded clients. Standard library only; runs inside the client namespace.

One line of JSON on standard input says what to do, one line on standard output says what came of it:
`{"answered": {"10.0.0.3:80": 100}, "peers": {"10.0.0.1": 100}, "lost": {"refused": 3}, "slowest": 0.01,
"seconds": 0.2}`. An order with `flows` lists sources and targets one by one, and its answer has `outcomes`:
what became of each. `run_background` writes its counts to a file instead, until standard input ends.
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
from contextlib import suppress
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
    outcomes: dict[int, tuple[str | None, str]] = field(default_factory=dict)
    """Number of the flow -> backend and the address that it saw; or None, and why it was lost."""

    def add(self, *, flow: "Flow", outcome: "bytes | OSError", seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)
        backend, word = self.outcomes[flow.number] = _read_outcome(outcome)
        if backend is None:
            self.lost[word] += 1
            return
        self.answered[backend] += 1
        self.peers[word] += 1

    def to_data(self) -> dict[str, Any]:
        return {"answered": self.answered, "peers": self.peers, "lost": self.lost, "slowest": self.slowest}


@dataclass(frozen=True, slots=True)
class Flow:
    number: int
    source: str
    target: tuple[str, int]
    any_port: bool = False
    """The kernel chooses the source port: some of the machine's own may be in use."""

    @property
    def port(self) -> int:
        """A source port of its own, so that no older connection tracking entry decides for this flow.

        Nor is one forgotten for it: a TCP port that comes back ends the old entry, whose masqueraded port is
        then given out while a backend still has it in TIME_WAIT.
        """
        return 0 if self.any_port else _FIRST_PORT + self.number % _PORTS


def main() -> None:
    order = json.loads(sys.stdin.readline())
    kind = order.pop("kind")
    if kind == "background":
        run_background(**order)
        return
    started = time.monotonic()
    limits = {key: order.pop(key) for key in ("timeout", "concurrency")}
    flows = list_flows(**order) if "flows" in order else repeat_flows(**order)
    tally = run_connections(flows, **limits) if kind == "tcp" else run_datagrams(flows, **limits)
    data = {**tally.to_data(), "seconds": time.monotonic() - started}
    if "flows" in order:
        data["outcomes"] = [tally.outcomes[flow.number] for flow in flows]
    print(json.dumps(data), flush=True)


def list_flows(*, flows: list[tuple[str, str, int]], first: int, any_port: bool) -> list[Flow]:
    """Of (source, address, port)."""
    return [
        Flow(number=number, source=source, target=(address, port), any_port=any_port)
        for number, (source, address, port) in enumerate(flows, start=first)
    ]


def repeat_flows(*, address: str, port: int, count: int, first: int, sources: list[str]) -> list[Flow]:
    """`count` to one target, from each source in turn."""
    return list(islice(_number_flows(first=first, sources=sources, targets=[(address, port)]), count))


def run_connections(flows: list[Flow], *, timeout: float, concurrency: int) -> Tally:
    """TCP connections, one after the other or up to `concurrency` at once."""
    tally, lock = Tally(), threading.Lock()
    waiting = iter(flows)

    def work() -> None:
        while True:
            with lock:
                flow = next(waiting, None)
            if flow is None:
                return
            started = time.monotonic()
            outcome = open_connection(flow=flow, timeout=timeout)
            with lock:
                tally.add(flow=flow, outcome=outcome, seconds=time.monotonic() - started)

    workers = [threading.Thread(target=work) for _ in range(min(concurrency, len(flows)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return tally


def open_connection(*, flow: Flow, timeout: float) -> bytes | OSError:
    """The body of the answer, or why there is none."""
    own = (flow.source, flow.port)
    try:
        with socket.create_connection(flow.target, timeout=timeout, source_address=own) as connection:
            connection.sendall(_REQUEST)
            received = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        return error
    return received.partition(b"\r\n\r\n")[2]


def run_datagrams(flows: list[Flow], *, timeout: float, concurrency: int) -> Tally:
    """UDP flows of one datagram each, up to `concurrency` at once."""
    tally, rest = Tally(), iter(flows)
    waiting: dict[socket.socket, tuple[Flow, float]] = {}
    with selectors.DefaultSelector() as selector:
        while True:
            for flow in islice(rest, concurrency - len(waiting)):
                sender = _send_datagram(flow=flow, tally=tally)
                if sender is not None:
                    waiting[sender] = flow, time.monotonic()
                    selector.register(sender, selectors.EVENT_READ)
            if not waiting:
                return tally
            _, oldest = next(iter(waiting.values()))
            for key, _ in selector.select(timeout=max(0.0, oldest + timeout - time.monotonic())):
                _finish(key.fileobj, selector=selector, waiting=waiting, tally=tally)
            late = [sender for sender, (_, sent) in waiting.items() if time.monotonic() - sent >= timeout]
            for sender in late:
                _finish(sender, selector=selector, waiting=waiting, tally=tally)


def run_background(
    *, targets: list[tuple[str, int]], sources: list[str], per_second: float, timeout: float, status: str
) -> None:
    """One connection at a time to each target in turn, until standard input ends."""
    tallies = {f"{address}:{port}": Tally() for address, port in targets}
    flows = _number_flows(first=0, sources=sources, targets=targets)
    started = written = time.monotonic()
    number = 0
    while not _input_ended(wait=started + number / per_second - time.monotonic()):
        flow = next(flows)
        address, port = flow.target
        begun = time.monotonic()
        outcome = open_connection(flow=flow, timeout=timeout)
        tally = tallies[f"{address}:{port}"]
        tally.add(flow=flow, outcome=outcome, seconds=time.monotonic() - begun)
        tally.outcomes.clear()  # it has no end, and nobody asks
        number += 1
        # A target that hung must not be made up for with a burst.
        started = max(started, time.monotonic() - number / per_second)
        if time.monotonic() - written >= _STATUS_SECONDS:
            _write_status(path=Path(status), tallies=tallies)
            written = time.monotonic()
    _write_status(path=Path(status), tallies=tallies)


def _number_flows(*, first: int, sources: list[str], targets: list[tuple[str, int]]) -> Iterator[Flow]:
    # The address moves on when the ports begin again, so that (address, port) does not come back.
    return (
        Flow(
            number=number,
            source=sources[(number + number // _PORTS) % len(sources)],
            target=targets[(number - first) % len(targets)],
        )
        for number in count_from(first)
    )


def _send_datagram(*, flow: Flow, tally: Tally) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in flow.target[0] else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sender.bind((flow.source, flow.port))
        sender.connect(flow.target)
        with suppress(PermissionError):
            # A rule in OUTPUT that rejects or drops; only one that rejects has an error to be received.
            sender.send(b"?")
    except OSError as error:
        sender.close()
        tally.add(flow=flow, outcome=error, seconds=0.0)
        return None
    return sender


def _finish(
    sender: Any,
    *,
    selector: selectors.BaseSelector,
    waiting: dict[socket.socket, tuple[Flow, float]],
    tally: Tally,
) -> None:
    outcome: bytes | OSError
    try:
        outcome = sender.recv(2048)
    except BlockingIOError:
        outcome = TimeoutError()
    except OSError as error:
        outcome = error
    flow, sent = waiting.pop(sender)
    tally.add(flow=flow, outcome=outcome, seconds=time.monotonic() - sent)
    selector.unregister(sender)
    sender.close()


def _read_outcome(outcome: bytes | OSError) -> tuple[str | None, str]:
    if isinstance(outcome, OSError):
        return None, _name_error(outcome)
    try:
        answer = json.loads(outcome)
    except ValueError:
        return None, "cut short"
    return answer["backend"], answer["peer"].rpartition(":")[0].strip("[]")


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
