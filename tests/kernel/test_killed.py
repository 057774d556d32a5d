"""kill -9 at any moment: every table is wholly old or wholly new, and the next sync finishes the work."""

import os
import random
import signal
import time
import warnings
from pathlib import Path

import pytest

from balancer.kernel.base import Busy, DriverName, Flavour
from balancer.kernel.lock import default_lock_directory, hold_writer_lock, xtables_lock_path
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import Namespace, document, held, own_part, ruleset, save, service, wait_for_waiter

MOMENTS = 50 * int(os.environ["LBADMIN_CAMPAIGN"]) if "LBADMIN_CAMPAIGN" in os.environ else 20
TABLES = ("filter", "nat")
VERSIONS = (
    tuple(service(f"old{i}", port=100 + i) for i in range(6)),
    tuple(service(f"new{i}", port=200 + i, scheduler="random") for i in range(6)),
)


def test_a_killed_writer_leaves_every_table_whole(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName], tmp_path: Path
) -> None:
    states, seconds = [], 0.0
    for version in VERSIONS * 2:
        started = time.monotonic()
        kernel.sync(ruleset=ruleset(*version), document=document(*version))
        seconds = max(seconds, time.monotonic() - started)
        states.append(own_part(save(kind[0])))
    moments = random.Random(1)  # the moments differ anyway, as the scheduler does

    states, seen = states[:2], set()
    for number in range(MOMENTS):
        worker = _start_sync(kernel, VERSIONS[number % 2])
        time.sleep(moments.uniform(0, seconds))
        _kill(worker, with_its_children=number % 4 > 1)
        # Held until the last process that can still write has gone.
        with hold_writer_lock(directory=default_lock_directory(), wait_seconds=20):
            now = own_part(save(kind[0]))
        found = {(table, [state[table] for state in states].index(now[table])) for table in TABLES}
        seen |= found
        # Half of them come in time, however busy the machine is by now.
        seconds *= 0.8 if found == {(table, number % 2) for table in TABLES} else 1.25

    assert seen == {(table, version) for table in TABLES for version in (0, 1)}, (
        "no kill came in time, or all did"
    )
    kernel.sync(ruleset=ruleset(*VERSIONS[0]), document=document(*VERSIONS[0]))
    assert own_part(save(kind[0])) == states[0]


@pytest.mark.parametrize("driver", DriverName)
def test_what_a_killed_writer_started_keeps_other_writers_out_until_it_ends(
    namespace: Namespace, driver: DriverName
) -> None:
    kernel = NodeKernel(flavour=Flavour.LEGACY, driver=driver)
    kernel.facts()  # the self-test, once, before anybody waits
    with held(xtables_lock_path()):
        worker = _start_sync(kernel, VERSIONS[0])
        wait_for_waiter(xtables_lock_path())
        _kill(worker, with_its_children=False)
        with pytest.raises(Busy), hold_writer_lock(directory=default_lock_directory(), wait_seconds=0.1):
            pass
    with hold_writer_lock(directory=default_lock_directory(), wait_seconds=20):
        pass


def _start_sync(kernel: NodeKernel, version: tuple[dict, ...]) -> int:
    wanted, source = ruleset(*version), document(*version)
    with warnings.catch_warnings():
        # Newer Pythons warn of forking beside threads; this child only starts other programs, and exits.
        warnings.simplefilter("ignore", DeprecationWarning)
        worker = os.fork()
    if worker == 0:
        try:
            os.setsid()
            kernel.sync(ruleset=wanted, document=source)
        finally:
            os._exit(0)
    return worker


def _kill(worker: int, *, with_its_children: bool) -> None:
    if with_its_children:
        _wait_for_session(worker)
        os.killpg(worker, signal.SIGKILL)
    else:
        os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def _wait_for_session(worker: int) -> None:
    while os.getpgid(worker) != worker:
        time.sleep(0.001)
