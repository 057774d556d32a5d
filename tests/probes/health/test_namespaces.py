"""The engine on a balancer with real backends, in namespaces: how soon it finds what."""

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from balancer.domain.health import Result, Standing
from balancer.domain.types import Health, HealthKind
from balancer.probes.health.engine import HealthEngine
from balancer.probes.health.icmp import Pinger
from tests.kernel.machine import Namespace, Wires, document, run, service
from tests.probes.health.servers import OK, answer, hang, target, tcp_server
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel

PATIENCE = 60.0
FALL, RISE, INTERVAL = 2, 2, 1
HEALTH = {"interval": INTERVAL, "timeout": 1, "fall": FALL, "rise": RISE}
FIRST, SECOND = "10.0.0.3:80", "10.0.0.4:80"


class Seen:
    """An engine on the balancer, and what it has told so far."""

    def __init__(self, engine: HealthEngine) -> None:
        self._engine = engine
        self.standings: dict[tuple[str, str], Standing] = {}

    async def until(self, condition: Callable[["Seen"], bool], *, within: float) -> float:
        """The seconds until it holds, of those that the machine had for it."""
        watch = Stopwatch()
        while not condition(self):
            assert watch.seconds < PATIENCE, f"not within {PATIENCE} s: {self.standings}"
            await asyncio.sleep(0.01)
            for standing in self._engine.take_changes():
                self.standings[standing.service, standing.endpoint] = standing
        assert watch.own < within, self.standings
        return watch.own

    def up(self, name: str, endpoint: str = FIRST) -> bool | None:
        found = self.standings.get((name, endpoint))
        return found.up if found else None


def watch(wires: Wires, story: Callable[[Seen], Any], *services: dict[str, Any]) -> None:
    async def main() -> None:
        engine = HealthEngine(clock=lambda: datetime.now(UTC), look=lambda _: {})
        engine.set_services(document(*services).services)
        try:
            await story(Seen(engine))
        finally:
            await engine.close()

    with wires.balancer.entered():
        asyncio.run(main())


def backends(*addresses: str) -> list[dict[str, str]]:
    return [{"address": address} for address in addresses]


def test_a_killed_backend_is_out_within_fall_intervals_and_back_after_rise(wires: Wires) -> None:
    """Long before the second that is left for the commit, and its neighbour is not touched."""
    web = service(health=HEALTH | {"kind": "http"}, backends=backends("10.0.0.3", "10.0.0.4"))

    def serving(address: str) -> Any:
        with wires.backend.entered():
            server = tcp_server(answer(OK), address=address, port=80)
            server.__enter__()
        return server

    async def story(seen: Seen) -> None:
        first, second = serving("10.0.0.3"), serving("10.0.0.4")
        await seen.until(lambda s: s.up("web") is s.up("web", SECOND) is True, within=INTERVAL + 1)
        first.__exit__(None, None, None)
        gone = await seen.until(lambda s: s.up("web") is False, within=FALL * INTERVAL + 1)
        assert gone <= FALL * INTERVAL + 0.5
        assert "connection refused after" in seen.standings["web", FIRST].reason
        first = serving("10.0.0.3")
        await seen.until(lambda s: s.up("web") is True, within=RISE * INTERVAL + 0.5)
        assert seen.up("web", SECOND) is True
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)

    watch(wires, story, web)


def test_a_hanging_backend_is_found_by_http_and_not_by_tcp(wires: Wires) -> None:
    web = service("http", health=HEALTH | {"kind": "http"}, backends=backends("10.0.0.3"))
    tcp = service("tcp", port=81, health=HEALTH | {"kind": "tcp", "port": 80}, backends=backends("10.0.0.3"))
    hangs = False

    def speak(opened: socket.socket) -> None:
        (hang if hangs else answer(OK))(opened)

    async def story(seen: Seen) -> None:
        nonlocal hangs
        with wires.backend.entered():
            server = tcp_server(speak, address="10.0.0.3", port=80)
            server.__enter__()
        await seen.until(lambda s: s.up("http") is s.up("tcp", "10.0.0.3:81") is True, within=INTERVAL + 1)
        hangs = True
        await seen.until(lambda s: s.up("http") is False, within=FALL * INTERVAL + 1.5)
        assert seen.up("tcp", "10.0.0.3:81") is True
        assert "connected, but no answer within 1 s" in seen.standings["http", FIRST].reason
        server.__exit__(None, None, None)

    watch(wires, story, web, tcp)


def test_a_machine_that_is_gone_is_found_by_ping_and_by_tcp(wires: Wires) -> None:
    """Nothing comes back at all, not even a refusal."""
    ping = service("ping", health=HEALTH | {"kind": "icmp"}, backends=backends("10.0.0.3"))
    tcp = service("tcp", port=81, health=HEALTH | {"kind": "tcp"}, backends=backends("10.0.0.3"))

    async def story(seen: Seen) -> None:
        await seen.until(lambda s: s.up("ping") is True, within=INTERVAL + 1)
        with wires.backend.entered():
            run("ip", "address", "del", "10.0.0.3/24", "dev", "eth0")
        await seen.until(
            lambda s: s.up("ping") is s.up("tcp", "10.0.0.3:81") is False, within=FALL * INTERVAL + 1.5
        )

    watch(wires, story, ping, tcp)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ping_tells_who_answers_from_who_does_not(namespace: Namespace, address: str) -> None:
    silent = "127.0.0.2" if address == "127.0.0.1" else "::2"
    health = Health(kind=HealthKind.ICMP, timeout=0.5)

    async def main() -> tuple[Result, ...]:
        pinger = Pinger()
        asked = [target(health, port=1, address=one) for one in (address, silent, *[address] * 50)]
        try:
            return tuple(await asyncio.gather(*(pinger.check(one) for one in asked)))
        finally:
            pinger.close()

    with namespace.entered():
        run("ip", "link", "set", "lo", "up")
        if address == "::1":
            run("ip", "route", "add", "blackhole", "::2")
        else:
            run("ip", "route", "del", "local", "127.0.0.0/8", "table", "local")
            run("ip", "route", "add", "blackhole", "127.0.0.2")
        here, there, *more = asyncio.run(main())

    assert (here.good, here.reason[: len(address) + 18]) == (True, f"pinged {address}, answered ")
    assert all(one.good for one in more)
    assert there.good is not True
