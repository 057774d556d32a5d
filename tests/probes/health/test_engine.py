"""The engine: when it asks, what it passes on, and what does not disturb it."""

import asyncio
import random
import selectors
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from balancer.domain.health import Result, Standing
from balancer.domain.passive import Look
from balancer.domain.types import BackendState, Health, HealthKind, Service
from balancer.probes.health import engine as engine_module
from balancer.probes.health.base import Key, Target, find_targets
from balancer.probes.health.engine import HealthEngine, is_news
from balancer.probes.health.passive import CannotLook
from tests.documents import backend_data, document, service_data

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
GOOD, BAD = Result(good=True, reason="good"), Result(good=False, reason="bad")
Script = Callable[[Target], Awaitable[Result]]
PATIENCE = 30
"""Seconds, on however busy a machine."""


def services(count: int = 1, **health: Any) -> tuple[Service, ...]:
    """One service whose backends are checked ten times a second, which no document could say."""
    backends = [backend_data(f"10.0.{n // 200}.{n % 200 + 3}") for n in range(count)]
    (found,) = document(service_data(backends=backends)).services
    fields = {"kind": HealthKind.TCP, "interval": 0.1, "timeout": 0.05, "fall": 2, "rise": 2, **health}
    return (replace(found, health=Health(**fields)),)


def run(
    deed: Callable[[HealthEngine], Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
    check: Script | None = None,
    loop: type[asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
    **options: Any,
) -> Any:
    """What the deed with a new engine gives."""

    async def main() -> Any:
        if check is not None:
            monkeypatch.setattr(engine_module, "check_tcp", check)
        options.setdefault("look", lambda _: {})
        engine = HealthEngine(clock=lambda: datetime.now(UTC), rng=random.Random(1), **options)
        try:
            return await deed(engine)
        finally:
            await engine.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main())


class UnhurriedLoop(asyncio.SelectorEventLoop):
    """Its clock goes on only when there is nothing to do: who waits is let go at once and exactly in time."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        look = selector.select

        def select(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return look(0)

        selector.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self._now


def test_checks_spread_over_the_interval_and_no_pause_is_longer_than_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, list[float]] = {}

    async def check(target: Target) -> Result:
        asked.setdefault(target.address, []).append(asyncio.get_running_loop().time())
        return GOOD

    async def deed(engine: HealthEngine) -> None:
        engine.set_services(services(200, interval=0.5))
        await asyncio.sleep(1.6)

    run(deed, monkeypatch, check, UnhurriedLoop)

    firsts = [times[0] for times in asked.values()]
    assert len(firsts) == 200
    per_tenth = [sum(n / 10 <= first < (n + 1) / 10 for first in firsts) for n in range(5)]
    assert min(per_tenth) >= 8, "all at once would be 200 in one of them"
    pauses = [b - a for times in asked.values() for a, b in pairwise(times)]
    assert all(0.475 <= pause <= 0.5 for pause in pauses)
    assert len({round(pause, 4) for pause in pauses}) > 50


def test_a_change_is_told_once_and_again_only_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [GOOD, GOOD, BAD, BAD, BAD]

    async def check(_: Target) -> Result:
        return results.pop(0) if len(results) > 1 else results[0]

    async def deed(engine: HealthEngine) -> list[Standing]:
        engine.set_services(services())
        found = []
        for _ in range(2):
            await asyncio.wait_for(engine.decided.wait(), PATIENCE)
            found.extend(engine.take_changes())
        await asyncio.sleep(0.3)
        assert engine.take_changes() == ()
        return found

    up, down = run(deed, monkeypatch, check)

    assert (up.service, up.endpoint, up.up, up.reason) == ("web", "10.0.0.3:80", True, "good")
    assert (down.up, down.reason) == (False, "bad")
    assert down.since == down.checked_at > up.since


def test_what_could_not_be_written_comes_again_unless_something_newer_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(_: Target) -> Result:
        return GOOD

    async def deed(engine: HealthEngine) -> None:
        engine.set_services(services())
        await asyncio.wait_for(engine.decided.wait(), PATIENCE)
        found = engine.take_changes()

        engine.give_back(found)
        assert engine.take_changes() == found
        engine.give_back([replace(found[0], endpoint="10.9.9.9:80")])
        assert engine.take_changes() == ()

    run(deed, monkeypatch, check)


def test_services_that_go_are_forgotten_and_those_that_stay_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    result = BAD

    async def check(target: Target) -> Result:
        asked.append(target.address)
        return result

    async def deed(engine: HealthEngine) -> None:
        nonlocal result
        two = services(2)
        engine.set_services(two)
        while min(asked.count(str(backend.address)) for backend in two[0].backends) < 2:
            await asyncio.sleep(0.01)
        assert {change.up for change in engine.take_changes()} == {False}
        one = replace(two[0], backends=two[0].backends[:1], health=replace(two[0].health, rise=3))
        engine.set_services((one,))
        asked.clear()
        result = GOOD
        await asyncio.wait_for(engine.decided.wait(), PATIENCE)
        (back,) = engine.take_changes()
        assert back.up is True
        assert asked == ["10.0.0.3"] * 3, "it was down before its check was changed, and is still"
        engine.set_services(())
        assert engine.size == 0
        assert engine.take_changes() == ()

    run(deed, monkeypatch, check)


def test_a_check_that_breaks_says_nothing_and_does_not_end_the_checks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    async def check(_: Target) -> Result:
        asked.append(1)
        if len(asked) == 1:
            raise ValueError("a defect")
        return GOOD

    async def deed(engine: HealthEngine) -> tuple[Standing, ...]:
        engine.set_services(services())
        while not asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        first = engine.take_changes()
        await asyncio.wait_for(engine.decided.wait(), PATIENCE)
        return first + engine.take_changes()

    broken, good = run(deed, monkeypatch, check)

    assert (broken.up, good.up) == (None, True)
    assert "a defect" in broken.warning
    assert "should not" in caplog.text


def test_a_node_that_is_held_up_takes_no_backend_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "STALL_SECONDS", 0.05)

    async def check(_: Target) -> Result:
        time.sleep(0.15)
        return BAD

    async def deed(engine: HealthEngine) -> tuple[Standing, ...]:
        engine.set_services(services(fall=1))
        await asyncio.sleep(0.4)
        return engine.take_changes()

    (found,) = run(deed, monkeypatch, check)

    assert (found.up, found.warning) == (None, "the node was too busy to check 10.0.0.3:80")


def test_no_more_sockets_are_open_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0

    async def check(_: Target) -> Result:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return GOOD

    async def deed(engine: HealthEngine) -> None:
        engine.set_services(services(40))
        await asyncio.sleep(0.5)

    run(deed, monkeypatch, check, at_once=3)

    assert most == 3


def test_passive_services_are_looked_at_together_and_one_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("balancer.probes.health.passive.ROUND_SECONDS", 0.02)
    looks: list[list[str]] = []

    def look(asked: Collection[Service]) -> Mapping[Key, Look]:
        looks.append([service.name for service in asked])
        silent = frozenset(str(n) for n in range(4 * len(looks)))
        return {("web", "10.0.0.3:80"): Look(unanswered=silent)}

    async def deed(engine: HealthEngine) -> tuple[Standing, ...]:
        engine.set_services(services(2, kind=HealthKind.PASSIVE, interval=0.02))
        await asyncio.wait_for(engine.decided.wait(), PATIENCE)
        return engine.take_changes()

    found = {one.endpoint: one for one in run(deed, monkeypatch, look=look)}

    assert looks[0] == ["web"]
    assert found["10.0.0.3:80"].up is False
    assert found["10.0.0.3:80"].reason.endswith("without answer, 0 refused")
    assert found["10.0.0.4:80"].up is None


def test_connections_that_cannot_be_read_are_a_warning_and_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(_: Collection[Service]) -> Mapping[Key, Look]:
        raise CannotLook("conntrack is missing on this node.")

    async def deed(engine: HealthEngine) -> tuple[Standing, ...]:
        engine.set_services(services(kind=HealthKind.PASSIVE))
        async with asyncio.timeout(PATIENCE):
            while not (found := engine.take_changes()):
                await asyncio.sleep(0.01)
        return found

    (found,) = run(deed, monkeypatch, look=look)

    assert (found.up, found.warning) == (None, "conntrack is missing on this node.")


def test_a_look_that_breaks_is_a_warning_and_does_not_end_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.probes.health.passive.ROUND_SECONDS", 0.02)
    looks = 0

    def look(_: Collection[Service]) -> Mapping[Key, Look]:
        nonlocal looks
        looks += 1
        raise ValueError("a defect")

    async def deed(engine: HealthEngine) -> tuple[Standing, ...]:
        engine.set_services(services(kind=HealthKind.PASSIVE, interval=0.02))
        await asyncio.sleep(0.2)
        return engine.take_changes()

    (found,) = run(deed, monkeypatch, look=look)

    assert (found.up, found.warning) == (None, "looking at the connections failed: a defect")
    assert looks > 1


def test_targets_are_what_takes_connections_at_the_place_that_is_asked() -> None:
    backends = [backend_data("2001:db8::3"), backend_data("2001:db8::4", state="draining")]
    backends += [backend_data("2001:db8::5", state="disabled")]
    (service,) = document(service_data(backends=backends, health={"kind": "http", "port": 8080})).services

    found = find_targets((service,))

    assert [key[1] for key in found] == ["[2001:db8::3]:80", "[2001:db8::4]:80"]
    first = found["web", "[2001:db8::3]:80"]
    assert (first.address, first.port, first.endpoint) == ("2001:db8::3", 8080, "[2001:db8::3]:8080")
    assert service.backends[2].state is BackendState.DISABLED
    other = replace(service.health, address=service.backends[2].address)
    elsewhere = find_targets((replace(service, health=other),))
    assert {target.endpoint for target in elsewhere.values()} == {"[2001:db8::5]:8080"}
    assert find_targets((replace(service, health=Health()),)) == {}


def test_words_that_only_say_another_time_are_passed_on_now_and_then() -> None:
    told = Standing(
        service="web", endpoint="10.0.0.3:80", up=True, since=NOON, checked_at=NOON, reason="in 1 ms"
    )
    soon = replace(told, reason="in 2 ms", checked_at=NOON + timedelta(seconds=29))
    assert not is_news(told, soon)
    assert is_news(told, replace(soon, checked_at=NOON + timedelta(seconds=30)))
    assert is_news(told, replace(soon, up=False))
    assert is_news(told, replace(soon, warning="the certificate expires"))
    again = replace(told, checked_at=NOON + timedelta(seconds=30))
    assert is_news(told, again), "word for word: who knows whether what was written is still there"
    assert is_news(told, replace(told, checked_at=NOON - timedelta(hours=1))), "the clock was set back"
