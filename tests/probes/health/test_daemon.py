"""The daemon around the engine: what it writes down and when, with database and broker there or not."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

import lbadmin.health as daemon
from balancer.domain.health import Result, Standing
from balancer.domain.types import Service
from balancer.probes.health import engine as engine_module
from balancer.probes.health.base import Target
from balancer.probes.health.engine import HealthEngine
from tests.probes.health.test_engine import services

PATIENCE = 30.0
"""Seconds, on however busy a machine."""


class Away(Exception):
    pass


@dataclass
class World:
    """Rows, broker and backends; what the daemon did, each with its time."""

    services: tuple[Service, ...]
    good: bool = True
    rows_away: bool = False
    broker_away: bool = False
    recorded: list[tuple[float, tuple[Standing, ...]]] = field(default_factory=list)
    woken: list[float] = field(default_factory=list)
    deeds: list[str] = field(default_factory=list)
    kept: list[tuple[str, ...]] = field(default_factory=list)
    denials: int = 0
    """So many times it cannot be forgotten who went."""
    flap: bool = False

    async def check(self, _: Target) -> Result:
        if self.flap:
            self.good = not self.good
        return Result(good=self.good, reason="good" if self.good else "bad")

    def read(self) -> tuple[Service, ...]:
        self._be_there(self.rows_away)
        return self.services

    def record(self, standings: Sequence[Standing]) -> None:
        self._be_there(self.rows_away)
        self.recorded.append((time.monotonic(), tuple(standings)))
        self.deeds.append("recorded")

    def keep_only(self, services: Sequence[Service]) -> None:
        self.denials -= 1
        self._be_there(self.denials >= 0)
        self.kept.append(tuple(service.name for service in services))

    def wake(self) -> None:
        self._be_there(self.broker_away)
        self.woken.append(time.monotonic())
        self.deeds.append("woken")

    def changes(self) -> list[bool | None]:
        return [one.up for _, standings in self.recorded for one in standings]

    def _be_there(self, away: bool) -> None:
        if away:
            raise Away("it cannot be reached")


async def until(condition: Callable[[], bool], *, within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def play(world: World, story: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(engine_module, "check_tcp", world.check)
        engine = HealthEngine(clock=lambda: datetime.now(UTC), look=lambda _: {})
        deeds = daemon.Deeds(
            read=world.read,
            keep_only=world.keep_only,
            record=world.record,
            wake=world.wake,
            failures=(Away,),
        )
        stop = asyncio.Event()
        running = asyncio.create_task(daemon.check_until(stop, engine=engine, deeds=deeds))
        told = asyncio.create_task(story())
        try:
            await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                await told
        finally:
            told.cancel()
            stop.set()
            await asyncio.wait_for(running, PATIENCE)
            await asyncio.gather(told, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """With a daemon ten times as fast."""
    for name in ("READ_SECONDS", "RECORD_SECONDS", "RETRY_SECONDS", "HEARTBEAT_SECONDS"):
        monkeypatch.setattr(daemon, name, getattr(daemon, name) / 10)
    return World(services=services())


def test_a_change_is_written_at_once_and_the_worker_woken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        await until(lambda: len(world.woken) == 1)
        world.good = False
        await until(lambda: len(world.woken) == 2)

    play(world, story, monkeypatch)

    assert world.changes() == [True, False]
    written = [i for i, deed in enumerate(world.deeds) if deed == "recorded"]
    changed = [i for i, (_, standings) in zip(written, world.recorded, strict=True) if standings]
    assert [world.deeds[i + 1] for i in changed] == ["woken", "woken"]


def test_what_is_no_longer_checked_is_forgotten_once_also_where_that_has_to_be_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        await until(lambda: world.kept == [("web",)])
        world.services, world.denials = (), 2
        await until(lambda: len(world.kept) == 2)
        await asyncio.sleep(0.3)

    play(world, story, monkeypatch)

    assert world.kept == [("web",), ()]


def test_without_changes_it_says_that_it_is_there_and_wakes_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        await until(lambda: len(world.recorded) == 4)

    play(world, story, monkeypatch)

    assert world.changes() == [True]
    assert len(world.woken) == 1


def test_flapping_wakes_the_worker_no_more_often_than_agreed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.services = services(40, interval=0.02, rise=1, fall=1)
    world.flap = True

    started = time.monotonic()

    async def story() -> None:
        await until(lambda: len(world.woken) > 10)

    play(world, story, monkeypatch)

    took = time.monotonic() - started
    assert (len(world.woken) - 1) * daemon.RECORD_SECONDS <= took
    assert max(len(standings) for _, standings in world.recorded) > 10


@pytest.mark.parametrize("turns", range(8))
def test_a_finding_at_the_moment_of_its_end_keeps_it_no_longer(world: World, turns: int) -> None:
    world.services = ()

    async def main() -> bool:
        engine = HealthEngine(clock=lambda: datetime.now(UTC), look=lambda _: {})
        deeds = daemon.Deeds(
            read=world.read, keep_only=world.keep_only, record=world.record, wake=world.wake, failures=(Away,)
        )
        stop = asyncio.Event()
        running = asyncio.create_task(daemon.check_until(stop, engine=engine, deeds=deeds))
        await until(lambda: bool(world.recorded))
        await asyncio.sleep(0.05)
        stop.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        engine.decided.set()
        await asyncio.wait([running], timeout=PATIENCE)
        return running.done()

    assert asyncio.run(main())


def test_while_the_database_is_away_checks_go_on_and_are_written_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="lbadmin.health")

    async def story() -> None:
        await until(lambda: len(world.woken) == 1)
        world.rows_away = True
        world.good = False
        await until(lambda: caplog.text.count("it cannot be reached") == 2)
        await asyncio.sleep(0.3)
        assert world.changes() == [True]
        world.rows_away = False
        await until(lambda: len(world.woken) == 2)
        await until(lambda: "Can write down what the checks found again." in caplog.text)

    play(world, story, monkeypatch)

    assert world.changes() == [True, False]
    said = [record.getMessage() for record in caplog.records]
    assert sum("Cannot write down what the checks found: it cannot be reached." in one for one in said) == 1
    assert sum("Can write down what the checks found again." in one for one in said) == 1
    assert sum("Cannot read the services" in one for one in said) == 1


def test_while_the_broker_is_away_changes_are_written_and_the_worker_is_woken_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.broker_away = True

    async def story() -> None:
        await until(lambda: world.changes() == [True])
        world.broker_away = False
        await until(lambda: len(world.woken) == 1)

    play(world, story, monkeypatch)

    assert world.changes() == [True]


def test_a_database_that_is_away_at_the_start_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.rows_away = True

    async def story() -> None:
        await asyncio.sleep(0.3)
        world.rows_away = False
        await until(lambda: world.changes() == [True])

    play(world, story, monkeypatch)


def test_what_was_not_foreseen_ends_the_daemon_so_that_it_is_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> tuple[Service, ...]:
        raise ValueError("a defect")

    monkeypatch.setattr(world, "read", broken)

    async def story() -> None:
        await asyncio.sleep(PATIENCE)

    with pytest.raises(ValueError, match="a defect"):
        play(world, story, monkeypatch)
