"""The health daemon of one node: `LBADMIN_NODE=lb1 python -m lbadmin.health`, beside its worker.

It asks the backends, writes down what it finds and wakes the worker, which alone touches the kernel. Traffic
does not need it: when it ends, the node goes on with what was known last, and the console shows that it ages.
"""

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import django

from balancer.domain.health import Standing
from balancer.domain.types import Service
from balancer.probes.health.engine import AT_ONCE, HealthEngine

READ_SECONDS = 1.0
RECORD_SECONDS = 0.25
"""The least time between two reminders of the worker, which keeps a second between two writes of the kernel:
a longer pause here would be added to that one."""
RETRY_SECONDS = 1.0
"""What could not be written down, or told the worker."""
HEARTBEAT_SECONDS = 2.0
"""How often it says that it is there while nothing changes."""
SPARE_DESCRIPTORS = 256

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deeds:
    """What the daemon does besides checking; each may fail, and runs in one thread of its own."""

    read: Callable[[], tuple[Service, ...]]
    keep_only: Callable[[Sequence[Service]], None]
    record: Callable[[Sequence[Standing]], None]
    wake: Callable[[], None]
    failures: tuple[type[Exception], ...]
    """What they raise while database or broker are out of reach."""


def main() -> int:
    """Runs until it is told to stop; 2 where it cannot begin."""
    django.setup()
    from django.conf import settings
    from django.utils import timezone

    from balancer import wiring

    if not settings.LBADMIN_NODE:
        print("Set LBADMIN_NODE to the name of the node whose health daemon this is.", file=sys.stderr)
        return 2
    gc.freeze()
    allowed = raise_descriptors()
    logger.info("Checking the backends of node %s.", settings.LBADMIN_NODE)

    async def run() -> None:
        at_once = max(1, min(AT_ONCE, allowed - SPARE_DESCRIPTORS))
        engine = HealthEngine(clock=timezone.now, look=wiring.look_at_connections, at_once=at_once)
        await check_until(stop_on_signals(), engine=engine, deeds=make_deeds())

    asyncio.run(run())
    return 0


def make_deeds() -> Deeds:
    import redis
    from django.db import Error, close_old_connections
    from kombu.exceptions import OperationalError

    from balancer import wiring

    def read() -> tuple[Service, ...]:
        close_old_connections()
        return wiring.own_health_targets()

    def record(standings: Sequence[Standing]) -> None:
        close_old_connections()
        wiring.record_own_standings(standings)

    failures = (Error, redis.RedisError, OperationalError, OSError)
    return Deeds(
        read=read,
        keep_only=wiring.keep_own_standings,
        record=record,
        wake=wiring.wake_own_node,
        failures=failures,
    )


async def check_until(stop: asyncio.Event, *, engine: HealthEngine, deeds: Deeds) -> None:
    """Check, and write down what changes, until `stop` is set."""
    daemon = _Daemon(engine, deeds)
    tasks = [asyncio.create_task(daemon.follow_services()), asyncio.create_task(daemon.write_down())]
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # what was not foreseen ends the process, and the supervisor starts it again
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        await engine.close()
        daemon.close()


class _Daemon:
    def __init__(self, engine: HealthEngine, deeds: Deeds) -> None:
        self._engine = engine
        self._deeds = deeds
        # One thread: Django's connections belong to threads, and what is written keeps its order.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._trouble: dict[str, str] = {}

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def follow_services(self) -> None:
        known: tuple[Service, ...] | None = None
        tidy = True
        while True:
            found = await self._try("read the services of the node", self._deeds.read)
            if found is not None and found is not known and found != known:
                self._engine.set_services(found)
                logger.info("Checking %d backends of %d services.", self._engine.size, len(found))
                known, tidy = found, False
            if not tidy:
                # Behind what was to be written of those that went: one thread does it all, in this order.
                tidy = await self._try("forget who is no longer checked", self._keep_only, known) is not None
            await asyncio.sleep(READ_SECONDS)

    async def write_down(self) -> None:
        loop, owed = asyncio.get_running_loop(), False
        while True:
            # What fails is tried again by and by; what is found meanwhile waits with it.
            decided = await self._wait(RETRY_SECONDS if owed else HEARTBEAT_SECONDS)
            owed = owed or decided
            started, changes = loop.time(), self._engine.take_changes()
            recorded = await self._try("write down what the checks found", self._record, changes)
            if recorded is None:
                self._engine.give_back(changes)
            elif owed:
                owed = await self._try("wake the worker", self._wake) is None
            if decided:
                await asyncio.sleep(started + RECORD_SECONDS - loop.time())

    async def _wait(self, seconds: float) -> bool:
        """Whether a backend went up or down; waits no longer than so many seconds."""
        try:
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation at the moment of a finding.
            async with asyncio.timeout(seconds):
                await self._engine.decided.wait()
        except TimeoutError:
            return False
        return True

    def _record(self, standings: Sequence[Standing]) -> bool:
        self._deeds.record(standings)
        return True

    def _keep_only(self, services: Sequence[Service]) -> bool:
        self._deeds.keep_only(services)
        return True

    def _wake(self) -> bool:
        self._deeds.wake()
        return True

    async def _try(self, what: str, deed: Callable[..., _T], *arguments: object) -> _T | None:
        """None where it failed, which is logged when it begins and when it is over."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, deed, *arguments)
        except self._deeds.failures as error:
            if what not in self._trouble:
                logger.warning("Cannot %s: %s. The checks go on, and this is tried again.", what, error)
            self._trouble[what] = str(error)
            return None
        if self._trouble.pop(what, None) is not None:
            logger.info("Can %s again.", what)
        return found


def stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def raise_descriptors() -> int:
    """As many as this process may have; the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = AT_ONCE + SPARE_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


if __name__ == "__main__":
    sys.exit(main())
