"""Passive checks: looks at the connections of all such services, as often as each of them asks for it."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime

from balancer.domain.health import Result, Track
from balancer.domain.passive import Look, Watch
from balancer.domain.types import BackendState, Service
from balancer.probes.health.base import Key

ROUND_SECONDS = 1.0

logger = logging.getLogger(__name__)


class CannotLook(Exception):
    """The connections cannot be read; the message is a sentence that says why."""


LookAtConnections = Callable[[Collection[Service]], Mapping[Key, Look]]
"""What is remembered of the services' connections, by backend; runs in a thread. Raises CannotLook."""
Judge = Callable[[Key, Track, Result, datetime], None]


class PassiveRounds:
    """One task for all passive services, while there are any."""

    def __init__(self, *, look: LookAtConnections, judge: Judge, clock: Callable[[], datetime]) -> None:
        self._look = look
        self._judge = judge
        self._clock = clock
        self._services: dict[str, Service] = {}
        self._due: dict[str, float] = {}
        self._watches: dict[Key, Watch] = {}
        self._task: asyncio.Task[None] | None = None

    def set_services(self, services: Iterable[Service]) -> None:
        self._services = {service.name: service for service in services}
        keys = {key for service in self._services.values() for key in _keys_of(service)}
        self._watches = {key: watch for key, watch in self._watches.items() if key in keys}
        self._due = {name: due for name, due in self._due.items() if name in self._services}
        if self._services and self._task is None:
            self._task = asyncio.create_task(self._go_round())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_round(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = [s for s in self._services.values() if self._due.get(s.name, 0.0) <= loop.time()]
            if due:
                for service in due:
                    self._due[service.name] = loop.time() + service.health.interval
                await self._look_at(due)
            await asyncio.sleep(ROUND_SECONDS)

    async def _look_at(self, services: list[Service]) -> None:
        try:
            looks = await asyncio.to_thread(self._look, services)
        except CannotLook as error:
            self._tell_all(services, str(error))
            return
        except Exception as error:
            # A defect of ours must not end the looks: nobody would notice, and they would never come again.
            logger.exception("Looking at the connections failed in a way that it should not.")
            self._tell_all(services, f"looking at the connections failed: {error}")
            return
        now = self._clock()
        for service in services:
            for key in _keys_of(service):
                watch = self._watches.get(key, Watch())
                watch, result = watch.after(looks.get(key, Look()), health=service.health, now=now)
                self._watches[key] = watch
                self._judge(key, watch.track, result, now)

    def _tell_all(self, services: list[Service], trouble: str) -> None:
        """That nobody can tell how their backends are, and why."""
        nothing = Result(good=None, reason=trouble, warning=trouble)
        for key in (key for service in services for key in _keys_of(service)):
            self._judge(key, self._watches.get(key, Watch()).track, nothing, self._clock())


def _keys_of(service: Service) -> list[Key]:
    return [(service.name, b.endpoint) for b in service.backends if b.state is not BackendState.DISABLED]
