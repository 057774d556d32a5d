"""Under load backends drain, flap, are overridden and disabled: a connection ends only where it is wanted."""

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from balancer.domain.overrides import Override, with_overrides
from balancer.domain.types import BackendState, Document
from balancer.kernel import conntrack
from balancer.kernel.base import DriverName, Flavour, Receipt
from balancer.kernel.conntrack_delete import Entry
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.kernel.machine import Namespace, document, service
from tests.kernel.many import Crowd
from tests.kernel.test_steady_load import BACKENDS, PORT, load, resets

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
TIMES = 50 if CAMPAIGN else 3
KEPT = 5
"""Connections that stay open, to each backend, of each service."""
STAYS, BESIDE = PORT + 1, PORT + 2
"""Ports of connections that stay open: of the service under load, and of one beside it. Backends get both at
STAYS."""
TAKES = 0.2
"""Seconds that a connection of the load lasts: some are under way with each backend at any moment."""
KINDS = [(flavour, DriverName.IPTABLES_RESTORE) for flavour in Flavour]
Ends = tuple[socket.socket, socket.socket]


class Kept:
    """Connections that stay open: both ends, by the service's port and the backend."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd, self._sources = crowd, itertools.count(20_000)
        self.pairs: dict[tuple[int, str], list[Ends]] = {
            (port, str(crowd.plan.backend(i))): [] for port in (STAYS, BESIDE) for i in range(BACKENDS)
        }
        with crowd.backend.entered():
            self._listener = socket.create_server(("", STAYS), backlog=100)
        self._listener.settimeout(30)

    def fill(self) -> None:
        """Opens what is missing."""
        for (port, _), pairs in self.pairs.items():
            while len(pairs) < KEPT:
                self._open(port)
        self.talk()

    def _open(self, port: int) -> None:
        with self._crowd.client.entered():
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(30)
        client.bind((str(self._crowd.plan.client(next(self._sources))), 0))
        client.connect((self._crowd.plan.service, port))
        server = self._listener.accept()[0]
        server.settimeout(30)
        self.pairs[port, server.getsockname()[0]].append((client, server))

    def talk(self) -> None:
        """Each of them carries data both ways."""
        for client, server in itertools.chain.from_iterable(self.pairs.values()):
            client.sendall(b"question")
            assert server.recv(20) == b"question"
            server.sendall(b"answer")
            assert client.recv(20) == b"answer"

    def expect_cut(self, backend: str) -> int:
        """How many connections of the service under load were with the backend: all of them are reset."""
        cut = self.pairs[STAYS, backend]
        for end in itertools.chain.from_iterable(cut):
            with pytest.raises(ConnectionResetError):
                end.recv(20)
            end.close()
        self.pairs[STAYS, backend] = []
        return len(cut)

    def close(self) -> None:
        for pairs in self.pairs.values():
            for end in itertools.chain.from_iterable(pairs):
                end.close()
        self._listener.close()


@pytest.fixture
def kept(crowd: Crowd) -> Iterator[Kept]:
    found = Kept(crowd)
    yield found
    found.close()


def two_services(crowd: Crowd) -> Document:
    def backends(port: int) -> list[dict[str, object]]:
        return [{"address": str(crowd.plan.backend(i)), "port": port} for i in range(BACKENDS)]

    both = {"address": crowd.plan.service}
    return document(
        service("beside", port=BESIDE, backends=backends(STAYS), **both),
        service("web", port=PORT, port_end=STAYS, backends=backends(PORT), health={"kind": "tcp"}, **both),
    )


Deed = Callable[[Document, int], Document]


def drain(wanted: Document, number: int) -> Document:
    return override(wanted, number, state=BackendState.DRAINING)


def flap(wanted: Document, number: int) -> Document:
    """As health checks have it for a moment."""
    beside, under_load = wanted.services
    backends = [
        replace(backend, up=position != number % BACKENDS)
        for position, backend in enumerate(under_load.backends)
    ]
    return replace(wanted, services=(beside, replace(under_load, backends=tuple(backends))))


def move_weight(wanted: Document, number: int) -> Document:
    return override(wanted, number, weight=2 + number % 3)


def disable(wanted: Document, number: int) -> Document:
    return override(wanted, number, state=BackendState.DISABLED)


def override(
    wanted: Document, number: int, *, state: BackendState | None = None, weight: int | None = None
) -> Document:
    backend = wanted.services[1].backends[number % BACKENDS]
    one = Override(service="web", address=backend.address, port=PORT, state=state, weight=weight)
    return with_overrides(wanted, [one])


def apply(kernel: NodeKernel, wanted: Document) -> Receipt:
    receipt = kernel.sync(ruleset=compile_document(wanted), document=wanted)
    assert "nat" in receipt.tables_committed
    assert receipt.warnings == ()
    return receipt


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind), indirect=True)
def test_no_connection_fails_and_none_is_reset_while_backends_drain_flap_and_are_overridden(
    crowd: Crowd, namespace: Namespace, kernel: NodeKernel, kept: Kept
) -> None:
    wanted = two_services(crowd)
    apply(kernel, wanted)
    before = resets(crowd, namespace)
    with load(crowd, takes=TAKES) as outcome:
        kept.fill()
        for number in range(TIMES):
            for deed in (drain, flap, move_weight):
                assert apply(kernel, deed(wanted, number)).connections_removed == 0
                assert apply(kernel, wanted).connections_removed == 0
            kept.talk()
    print(
        f"\n{TIMES} times each in {outcome.seconds:.1f} s; {outcome.report['answered']} connections,"
        f" {outcome.rate:.0f} a second; failed {outcome.report['failed']}, {resets(crowd, namespace)}"
    )
    assert outcome.report["failed"] == {}
    assert resets(crowd, namespace) == before
    assert outcome.is_steady


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind), indirect=True)
def test_a_disable_under_load_cuts_exactly_the_connections_of_that_backend_of_that_service(
    crowd: Crowd, kernel: NodeKernel, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = note_what_is_cut(monkeypatch)
    wanted, reset = two_services(crowd), 0
    apply(kernel, wanted)
    with load(crowd, takes=TAKES) as outcome:
        for number in range(TIMES):
            kept.fill()
            backend, noted = str(crowd.plan.backend(number % BACKENDS)), len(cut)
            apply(kernel, disable(wanted, number))
            assert {str(entry.reply.source) for entry in cut[noted:]} == {backend}
            assert BESIDE not in {entry.original.port for entry in cut[noted:]}
            reset += kept.expect_cut(backend)
            kept.talk()
            apply(kernel, wanted)
    failed, ends = outcome.report["failed"], {ends_of(entry) for entry in cut}
    print(
        f"\n{TIMES} disables in {outcome.seconds:.1f} s; {outcome.report['answered']} connections,"
        f" {outcome.rate:.0f} a second; {reset} that stay open were cut, {failed} of those under way"
    )
    assert reset >= KEPT * TIMES
    assert set(outcome.report["failed_from"]) <= ends, "nobody else's"
    assert outcome.report["failed_from"], "some were under way"
    assert set(failed) <= {"ECONNRESET", "EPIPE"}, "at once, not at a timeout"
    assert outcome.is_steady


def note_what_is_cut(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    noted: list[Entry] = []
    nudge = conntrack.nudge_ends

    def note(cut: tuple[Entry, ...]) -> None:
        noted.extend(cut)
        nudge(cut)

    monkeypatch.setattr(conntrack, "nudge_ends", note)
    return noted


def ends_of(entry: Entry) -> str:
    return f"{entry.original.source}:{entry.original.source_port}"
