"""The process that counts on one node: `python -m lbadmin.counters`, beside its worker and with the same
environment.

It reads the kernel every ten seconds, keeps what it read beside what the node's guard keeps, and writes rows.
It never writes the kernel. Traffic and applies go on without it. New connections that come while it is away
are counted all the same; packets and bytes of connections that end meanwhile are not.
"""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import django
from django.conf import settings

TICK_SECONDS = 10
REST = 10
"""A look that was dear is followed by a wait of so many times what it cost: a tenth of a core at most."""

logger = logging.getLogger(__name__)


def main() -> int:
    """Runs until it is told to stop; 2 where it cannot begin."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    django.setup()
    if not settings.LBADMIN_NODE:
        print("Set LBADMIN_NODE to the name of the node that is counted on.", file=sys.stderr)
        return 2
    # Here, not above: it needs the settings.
    from balancer.kernel.base import KernelError

    try:
        with counting() as count:
            count_until(stop, count=count)
    except KernelError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


@contextmanager
def counting() -> Iterator[Callable[[], float]]:
    """What takes one look at all that this process's node counts and keeps it; it says what that cost."""
    from django.utils import timezone

    from balancer.factories import AUTO, own_meter
    from balancer.kernel.base import Flavour
    from balancer.kernel.flavour import detect_host_tool
    from balancer.kernel.flow_events import FlowEvents
    from balancer.kernel.lock import default_lock_directory
    from balancer.kernel.sampler import Sampler
    from balancer.wiring import own_node_name
    from balancer.workflow.counting import CountingMemory, count_node

    gc.freeze()
    asked = settings.LBADMIN_FLAVOUR
    with FlowEvents() as events:
        sampler = Sampler(
            meter=own_meter(),
            flavour=detect_host_tool().flavour if asked == AUTO else Flavour(asked),
            lock_directory=default_lock_directory(),
            events=events,
        )
        memory = CountingMemory()
        yield lambda: count_node(
            node_name=own_node_name(), look=sampler.look, memory=memory, clock=timezone.now
        )


def count_until(stop: threading.Event, *, count: Callable[[], float]) -> None:
    """`count` takes one look and says how many seconds of a core that took.

    Looks are at whole ten seconds of the clock, so that those of different nodes fall together.
    """
    from django.db import Error, close_old_connections

    took = 0.0
    while not stop.wait(seconds_to_next(now=time.time(), took=took)):
        close_old_connections()
        try:
            took = count()
        except Error as error:
            logger.error("Counts could not be written; new connections come with the next look: %s", error)
        finally:
            close_old_connections()


def seconds_to_next(*, now: float, took: float) -> float:
    """To the next whole ten seconds; to a later one after a slow look."""
    rest = took * REST if took * REST > TICK_SECONDS else 0
    return TICK_SECONDS - (now + rest) % TICK_SECONDS + rest


if __name__ == "__main__":
    sys.exit(main())
