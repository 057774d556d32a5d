"""What connection tracking tells of a backend that does not answer: the ground of passive health."""

import asyncio
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from balancer.domain.health import Standing
from balancer.domain.passive import Look
from balancer.domain.types import Document
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.looks import look_at
from balancer.kernel.node import NodeKernel
from balancer.probes.health.engine import HealthEngine
from balancer.ruleset.compile import compile_document
from tests.kernel.behaviours.lab import wait_for
from tests.kernel.machine import Wires, document, run, service

NOBODY = "02:00:00:00:00:01"
ANSWERS, SILENT, REFUSES = "10.0.0.3", "10.0.0.4", "10.0.0.5"
BACKENDS = [{"address": address} for address in (ANSWERS, SILENT, REFUSES)]


@pytest.fixture
def carried(wires: Wires, flavour: Flavour) -> Document:
    """One backend that accepts, one that never answers, one at which nobody listens."""
    health = {"kind": "passive", "interval": 1, "fall": 2}
    wide = service("wide", port=8000, port_end=8009, backends=[{"address": REFUSES}], health=health)
    wanted = document(service(backends=BACKENDS, health=health), wide)
    with wires.balancer.entered():
        kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
        kernel.sync(ruleset=compile_document(wanted), document=wanted)
        # Sent to nobody: without this the node itself would say that it finds no way.
        run("ip", "neigh", "replace", SILENT, "lladdr", NOBODY, "dev", "eth1", "nud", "permanent")
    with wires.backend.entered():
        wires.keep(socket.create_server((ANSWERS, 80), backlog=1000))
    return wanted


@pytest.fixture
def clients(wires: Wires) -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def connect(wires: Wires, clients: list[socket.socket], count: int, port: int = 80) -> None:
    with wires.client.entered():
        for _ in range(count):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            client.connect_ex((wires.service_address, port))
            clients.append(client)


def test_a_look_tells_who_answers_and_the_counters_who_refuses(
    wires: Wires, flavour: Flavour, carried: Document, clients: list[socket.socket]
) -> None:
    connect(wires, clients, 12)
    connect(wires, clients, 3, port=8005)

    def counts() -> list[Any]:
        with wires.balancer.entered():
            looks = look_at(carried.services, flavour=flavour)
        found = [looks["web", f"{address}:80"] for address in (ANSWERS, SILENT, REFUSES)]
        wide = looks["wide", f"{REFUSES}:8000"].started
        return [*((len(one.answered), len(one.unanswered), one.started) for one in found), wide]

    # The last is counted where a rule names no port.
    expected = [(4, 0, 4), (0, 4, 4), (0, 0, 4), 3]
    assert wait_for(lambda: counts() == expected), counts()


def test_a_client_that_uses_its_port_again_is_seen_to_have_begun_anew(wires: Wires, flavour: Flavour) -> None:
    """As a proxy does that is the only client, when the backend closes first: the kernel goes on at once."""
    wanted = document(service(backends=[{"address": ANSWERS}], health={"kind": "passive"}))
    with wires.balancer.entered():
        kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
        kernel.sync(ruleset=compile_document(wanted), document=wanted)
    with wires.backend.entered():
        server = wires.keep(socket.create_server((ANSWERS, 80)))
    before = Look()
    for _ in range(2):
        for _ in range(3):
            with wires.client.entered(), socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind(("", 40001))
                client.connect((wires.service_address, 80))
                server.accept()[0].close()
                assert client.recv(1) == b""
        time.sleep(0.1)
        with wires.balancer.entered():
            look = look_at(wanted.services, flavour=flavour)["web", f"{ANSWERS}:80"]
        begun, before = look.again_since(before), look

    assert (len(look.known), look.started) == (1, 6)
    assert begun == look.answered


def test_what_a_limit_of_the_node_drops_is_not_taken_for_refused_by_a_backend(
    wires: Wires, flavour: Flavour, clients: list[socket.socket]
) -> None:
    limited = service(backends=BACKENDS[:1], health={"kind": "passive"}, access={"connections_per_source": 2})
    wanted = document(limited)
    with wires.balancer.entered():
        kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
        kernel.sync(ruleset=compile_document(wanted), document=wanted)
    with wires.backend.entered():
        wires.keep(socket.create_server((ANSWERS, 80), backlog=64))

    connect(wires, clients, 9)
    time.sleep(0.1)

    with wires.balancer.entered():
        look = look_at(wanted.services, flavour=flavour)["web", f"{ANSWERS}:80"]
    assert (len(look.answered), len(look.unanswered), look.started) == (2, 0, 2)


def test_passive_health_takes_out_who_does_not_answer_and_who_refuses(
    wires: Wires, flavour: Flavour, carried: Document, clients: list[socket.socket]
) -> None:
    found: dict[str, Standing] = {}

    async def main() -> None:
        engine = HealthEngine(clock=lambda: datetime.now(UTC), look=partial(look_at, flavour=flavour))
        engine.set_services(carried.services)
        try:
            for _ in range(100):
                connect(wires, clients, 12)
                await asyncio.sleep(0.5)
                found.update({one.endpoint: one for one in engine.take_changes()})
                if [found[endpoint].up for endpoint in found].count(False) == 2:
                    return
        finally:
            await engine.close()

    with wires.balancer.entered():
        asyncio.run(main())

    assert {one: found[f"{one}:80"].up for one in (ANSWERS, SILENT, REFUSES)} == {
        ANSWERS: True,
        SILENT: False,
        REFUSES: False,
    }
    assert " 0 refused" in found[f"{SILENT}:80"].reason
    assert " 0 without answer" in found[f"{REFUSES}:80"].reason
