"""All checks of one node: one task for each backend, in one loop.

The first check of a backend comes at a random moment, and each pause is a random bit shorter than the
interval: thousands of checks spread out, and no pause is ever longer than what is promised.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from balancer.domain.health import Result, Standing, Track, standing_of
from balancer.domain.types import HealthKind, Service
from balancer.probes.health.base import Check, Key, Target, find_targets
from balancer.probes.health.http import check_http
from balancer.probes.health.icmp import Pinger
from balancer.probes.health.passive import LookAtConnections, PassiveRounds
from balancer.probes.health.tcp import check_tcp
from balancer.probes.health.udp import check_udp

JITTER = 0.05
"""The share of a pause that may be left out."""
SPREAD_SECONDS = 5.0
"""First checks are spread over an interval, but over no more than this."""
STALL_SECONDS = 0.5
"""A check that ends so long after its timeout was held up by the node: it says nothing."""
AT_ONCE = 4000
"""Checks that may have a socket open; the daemon asks for as many descriptors."""
SAID_AGAIN_EVERY = timedelta(seconds=30)
"""Every check says how long it took; what says the same but for that is not passed on more often. So
often it is, also word for word: what was written down may have been lost since, or overwritten."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    target: Target
    task: "asyncio.Task[None] | None"
    """None: one of the passive rounds."""
    track: Track = field(default_factory=Track)
    told: Standing | None = None
    """What was passed on last."""


class HealthEngine:
    """Made and used in a running loop. Call `close` at the end."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        look: LookAtConnections,
        at_once: int = AT_ONCE,
        rng: random.Random | None = None,
    ) -> None:
        self.decided = asyncio.Event()
        """Set when a backend went up or down; whoever takes the changes clears it."""
        self._clock = clock
        self._rng = rng or random.Random()
        self._pinger = Pinger()
        self._slots = asyncio.Semaphore(at_once)
        self._watched: dict[Key, _Watched] = {}
        self._changed: dict[Key, Standing] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._passive = PassiveRounds(look=look, judge=self._take_result, clock=clock)
        self._checks: Mapping[HealthKind, Check] = {
            HealthKind.TCP: check_tcp,
            HealthKind.HTTP: check_http,
            HealthKind.HTTPS: check_http,
            HealthKind.UDP: check_udp,
            HealthKind.ICMP: self._pinger.check,
        }

    @property
    def size(self) -> int:
        return len(self._watched)

    def set_services(self, services: Iterable[Service]) -> None:
        """Check the backends of these services and no others. What is known of a backend outlasts a change
        of how it is checked."""
        services = tuple(services)
        wanted = find_targets(services)
        for key in self._watched.keys() - wanted.keys():
            self._forget(key)
        for key, target in wanted.items():
            known = self._watched.get(key)
            if known is None or known.target != target:
                self._watch(target, known)
        self._passive.set_services(s for s in services if s.health.kind is HealthKind.PASSIVE)

    def take_changes(self) -> tuple[Standing, ...]:
        """What became different since it was last asked; the newest of each backend."""
        found = tuple(self._changed.values())
        self._changed.clear()
        self.decided.clear()
        return found

    def give_back(self, standings: Iterable[Standing]) -> None:
        """They could not be written down: they come again, unless something newer was found."""
        for standing in standings:
            key = standing.service, standing.endpoint
            if key in self._watched:
                self._changed.setdefault(key, standing)

    async def close(self) -> None:
        for key in list(self._watched):
            self._forget(key)
        await self._passive.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pinger.close()

    def _watch(self, target: Target, known: _Watched | None) -> None:
        if known is not None and known.task is not None:
            known.task.cancel()
        check = self._checks.get(target.health.kind)
        watched = _Watched(target, None)
        if known is not None:
            watched.track, watched.told = known.track, known.told
        self._watched[target.key] = watched
        if check is not None:
            watched.task = asyncio.create_task(self._check_for_ever(watched, check))
            self._tasks.add(watched.task)
            watched.task.add_done_callback(self._tasks.discard)

    def _forget(self, key: Key) -> None:
        watched = self._watched.pop(key)
        self._changed.pop(key, None)
        if watched.task is not None:
            watched.task.cancel()

    async def _check_for_ever(self, watched: _Watched, check: Check) -> None:
        target, loop = watched.target, asyncio.get_running_loop()
        await asyncio.sleep(self._rng.random() * min(target.health.interval, SPREAD_SECONDS))
        while True:
            async with self._slots:
                started = loop.time()
                result = await self._check_once(target, check)
            now = self._clock()
            if result.good is not None:
                watched.track = watched.track.after(result.good, health=target.health, now=now)
            self._take_result(target.key, watched.track, result, now)
            pause = watched.track.pause(target.health) * (1 - JITTER * self._rng.random())
            await asyncio.sleep(started + pause - loop.time())

    async def _check_once(self, target: Target, check: Check) -> Result:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            result = await check(target)
        except Exception as error:
            # A defect of ours must neither end the checks of a backend nor count against it.
            logger.exception("A check of %s failed in a way that it should not.", target.endpoint)
            reason = f"the check of {target.endpoint} failed: {error}"
            return Result(good=None, reason=reason, warning=reason)
        took = loop.time() - started
        if not result.good and took > target.health.timeout + STALL_SECONDS:
            reason = f"the node was too busy to check {target.endpoint}"
            return Result(good=None, reason=reason, warning=reason)
        return result

    def _take_result(self, key: Key, track: Track, result: Result, now: datetime) -> None:
        watched = self._watched.get(key)
        if watched is None:
            return
        watched.track = track
        standing = standing_of(
            track,
            result,
            service=key[0],
            endpoint=key[1],
            health=watched.target.health,
            now=now,
        )
        told = watched.told
        if told is not None and not is_news(told, standing):
            return
        watched.told = self._changed[key] = standing
        if standing.up is not None and (told is None or told.up is not standing.up):
            self.decided.set()


def is_news(told: Standing, standing: Standing) -> bool:
    if (told.up, told.warning) != (standing.up, standing.warning):
        return True
    return abs(standing.checked_at - told.checked_at) >= SAID_AGAIN_EVERY
