"""Connections of each backend, counted in the kernel's own table; and weights that follow them."""

import os
import select
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import mean
from typing import Any

import pytest

from balancer.domain.moving import advance_ramps, move_towards_balance
from balancer.domain.own_weights import Memory, carried, own_weights, with_own_weights
from balancer.domain.types import Document
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.schedulers import promised_shares
from tests.chance import CHANCE, p_of_count
from tests.kernel.machine import BACKENDS, Wires, ask_udp, document, service

FIRST, SECOND = BACKENDS[:2]
SECONDS = 10.0 if "LBADMIN_CAMPAIGN" in os.environ else 1.6
"""How long counts are averaged."""
LOOKS = 30 if "LBADMIN_CAMPAIGN" in os.environ else 12
ROUNDS = 4
"""Of so many looks, until it has come near enough: a machine that is busy gives the connections less time."""
PER_SECOND = 300


@pytest.fixture
def kernel(wires: Wires, flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)


def sync(kernel: NodeKernel, wanted: Document) -> None:
    kernel.sync(ruleset=compile_document(wanted), document=wanted)


class Traffic(threading.Thread):
    """TCP clients at a steady rate; each backend keeps them for a time of its own, then closes."""

    def __init__(self, wires: Wires, *, keep: dict[str, float]) -> None:
        super().__init__()
        self._keep, self._stop_it = keep, threading.Event()
        self._selector = selectors.DefaultSelector()
        self._client = wires.client
        self._leaving: list[tuple[float, socket.socket]] = []
        self.kept: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        with wires.backend.entered():
            for address in keep:
                listener = socket.create_server((address, 80), backlog=512)
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, address)

    def run(self) -> None:
        begun, opened = time.monotonic(), 0
        with self._client.entered():
            while not self._stop_it.is_set():
                while opened < (time.monotonic() - begun) * PER_SECOND:
                    self._open()
                    opened += 1
                for key, _ in self._selector.select(0.005):
                    self._hear(key)
                self._close_due()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        for _, server in self._leaving:
            server.close()

    def stop(self) -> None:
        self._stop_it.set()
        self.join()

    def _open(self) -> None:
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex((Wires.service_address, 80))
        self._selector.register(client, selectors.EVENT_READ, None)

    def _hear(self, key: selectors.SelectorKey) -> None:
        if key.data is None:  # a client whose backend has closed
            self._selector.unregister(key.fileobj)
            key.fileobj.close()
            return
        server, _ = key.fileobj.accept()
        self._leaving.append((time.monotonic() + self._keep[key.data], server))
        self.served[key.data] += 1

    def _close_due(self) -> None:
        now = time.monotonic()
        for due, server in self._leaving:
            if due <= now:
                server.close()
        self._leaving = [one for one in self._leaving if one[0] > now]


@pytest.fixture
def traffic(wires: Wires) -> Iterator[Traffic]:
    found = Traffic(wires, keep={address: 1.0 if address == FIRST else 0.2 for address in BACKENDS})
    yield found
    found.stop()


def test_each_backend_is_told_with_its_established_connections(kernel: NodeKernel, wires: Wires) -> None:
    shifted = [{"address": address, "port": 8080} for address in BACKENDS[:2]]
    dns = service("dns", protocol="udp", port=53)
    wanted = document(
        service("web", backends=shifted, additional_ports=["90"], scheduler="least-connections"), dns
    )
    sync(kernel, wanted)
    with wires.backend.entered():
        listeners = [
            wires.keep(socket.create_server((a, port))) for a in BACKENDS[:2] for port in (8080, 8090)
        ]
    with wires.client.entered():
        clients = [
            wires.keep(socket.create_connection((wires.service_address, p), timeout=30)) for p in (80, 90) * 4
        ]
    backends = wires.listen_udp(port=53)
    asked = Counter(ask_udp(wires.udp_client(port=53), backends) for _ in range(6))

    loads = kernel.count_loads(services=wanted.services)

    assert sum(loads["web"].values()) == 8
    assert set(loads["web"]) <= {f"{FIRST}:8080", f"{SECOND}:8080"}, "by the port that names the backend"
    assert dict(loads["dns"]) == {f"{address}:53": count for address, count in asked.items()}
    clients[0].close()
    for listener in listeners:
        listener.settimeout(0.2)
    deadline = time.monotonic() + 30
    while (count := sum(kernel.count_loads(services=wanted.services)["web"].values())) != 7:
        assert time.monotonic() < deadline, f"a connection that is being closed still counts: {count}"


def test_a_connection_that_one_end_has_closed_is_open_until_the_other_closes_too(
    kernel: NodeKernel, wires: Wires
) -> None:
    wanted = document(service(backends=[{"address": FIRST, "state": "enabled"}]))
    sync(kernel, wanted)
    with wires.backend.entered():
        listener = wires.keep(socket.create_server((FIRST, 80)))
    listener.settimeout(30)
    with wires.client.entered():
        client = wires.keep(socket.create_connection((wires.service_address, 80), timeout=30))
    server = wires.keep(listener.accept()[0])

    client.shutdown(socket.SHUT_WR)

    assert server.recv(10) == b""
    assert kernel.count_loads(services=wanted.services) == {"web": {}}
    assert kernel.count_open(services=wanted.services) == {"web": {f"{FIRST}:80": 1}}
    server.sendall(b"a long answer")
    assert client.recv(20) == b"a long answer"
    server.close()
    assert client.recv(10) == b""
    client.close()
    assert kernel.count_open(services=wanted.services) == {"web": {}}


def test_what_came_in_for_another_service_counts_for_the_one_that_stands_in_for_it(
    kernel: NodeKernel, wires: Wires
) -> None:
    wanted = document(
        service(
            backends=[{"address": FIRST}],
            health={"kind": "tcp"},
            all_down="service",
            all_down_service="sorry",
        ),
        service("sorry", port=8000, backends=[{"address": SECOND, "port": 80}]),
    )
    sorry, web = wanted.services
    down = replace(web, backends=tuple(replace(backend, up=False) for backend in web.backends))
    sync(kernel, replace(wanted, services=(sorry, down)))
    with wires.backend.entered():
        wires.keep(socket.create_server((SECOND, 80)))
    with wires.client.entered():
        wires.keep(socket.create_connection((wires.service_address, 80), timeout=30))

    assert kernel.count_open(services=wanted.services)["sorry"] == {f"{SECOND}:80": 1}


def established(kernel: NodeKernel, wanted: Document, *, seconds: float) -> float:
    """The mean part of the connections that the slow backend has."""
    parts, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        counts = kernel.count_loads(services=wanted.services)["web"]
        parts.append(counts[f"{FIRST}:80"] / max(sum(counts.values()), 1))
        time.sleep(0.05)
    return mean(parts)


def test_least_connections_comes_nearer_to_equal_counts_than_random(
    kernel: NodeKernel, traffic: Traffic
) -> None:
    wanted = document(service("web", scheduler="least-connections"))
    sync(kernel, wanted)
    traffic.start()
    time.sleep(1.5)
    random = established(kernel, wanted, seconds=SECONDS)
    memory, moved = Memory(), 1.0

    for _ in range(ROUNDS):
        memory = balance(kernel, wanted, memory)
        moved = established(kernel, wanted, seconds=SECONDS)
        print(f"part of the slow backend's connections: random {random:.3f}, least-connections {moved:.3f}")
        if moved - 0.25 < 0.6 * (random - 0.25):
            break

    assert random > 0.5, "five times as slow as the three others: by weight it has five of eight connections"
    assert moved - 0.25 < 0.6 * (random - 0.25)


def balance(kernel: NodeKernel, wanted: Document, memory: Memory) -> Memory:
    """Looks and moves, in quick succession for a test."""
    for _ in range(LOOKS):
        time.sleep(0.3)
        loads = kernel.count_loads(services=wanted.services)["web"]
        memory, why = move_towards_balance(memory, wanted.services[0], loads, trend=True)
        if why:
            sync(kernel, with_own_weights(wanted, own_weights(wanted, memory)))
    return memory


def udp_service(*states: str) -> dict[str, Any]:
    backends = [{"address": a, "state": state} for a, state in zip(BACKENDS, states, strict=True)]
    return service("web", protocol="udp", port=53, scheduler="random", slow_start=80, backends=backends)


def shares_seen(wires: Wires, backends: dict[str, socket.socket], flows: int) -> dict[str, int]:
    """Flows of one datagram each, by the backend that got them."""
    with wires.client.entered():
        for _ in range(flows):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"x", (wires.service_address, 53))
    seen: Counter[str] = Counter()
    names = {opened: address for address, opened in backends.items()}
    while seen.total() < flows:
        ready, _, _ = select.select(list(names), [], [], 20)
        assert ready, f"{seen.total()} of {flows} flows came"
        for opened in ready:
            opened.recv(10)
            seen[names[opened]] += 1
    return seen


def test_a_slow_start_can_be_seen_in_the_shares_of_real_flows(kernel: NodeKernel, wires: Wires) -> None:
    backends, flows = wires.listen_udp(port=53), 600
    without, wanted = (document(udp_service(state, *["enabled"] * 3)) for state in ("draining", "enabled"))
    now = datetime.now(tz=UTC)
    memory = carried(wanted, carried(without, Memory(), now=now), now=now)
    sync(kernel, without)
    assert FIRST not in shares_seen(wires, backends, flows)
    found = []

    for seconds in (0, 35, 80):
        memory, _ = advance_ramps(memory, wanted.services, now=now + timedelta(seconds=seconds))
        laid = with_own_weights(wanted, own_weights(wanted, memory))
        sync(kernel, laid)
        found.append(shares_seen(wires, backends, flows)[FIRST])
        share = promised_shares(laid.services[0])[f"{FIRST}:53"]
        assert p_of_count(found[-1], of=flows, share=share) > CHANCE

    print(f"of {flows} flows: {found}")
    assert found[0] < found[-1]
