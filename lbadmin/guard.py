"""The guard of one node: `python -m lbadmin.guard`, beside its worker and with the same environment.

Knows no Django, no broker and no database: it has to work when all of them are out of reach.
"""

import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from balancer.kernel.base import DriverName, Flavour, KernelError, ensure_own_namespace
from balancer.kernel.guard import read_boot_id, read_boottime, read_network
from balancer.kernel.guard_files import GuardError, hold_file_lock
from balancer.kernel.guard_state import DEFAULT_DIRECTORY, GuardDirectory
from balancer.kernel.guardian import Guardian
from balancer.kernel.meter import Meter
from balancer.kernel.node import NodeKernel

TICK_SECONDS = 0.2
START_SECONDS = 3.0
"""A worker that asks whether a guard lives holds the lock for a moment, a dying guard for longer."""
AUTO = "auto"

logger = logging.getLogger(__name__)


def main() -> int:
    """Runs until it is told to stop; 2 where it cannot begin."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    files = GuardDirectory(guard_directory())
    try:
        ensure_own_namespace(this_host=_flag("LBADMIN_THIS_HOST"))
        files.prepare()
        with hold_file_lock(files.path / "guard.lock", seconds=START_SECONDS):
            logger.info("Guarding with the files in %s.", files.path)
            guard_until(stop, guardian=make_guardian(files=files))
    except (GuardError, KernelError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def make_guardian(*, files: GuardDirectory) -> Guardian:
    return Guardian(
        files=files,
        kernels=make_kernels(),
        clock=read_boottime,
        boot_id=read_boot_id(),
        network=read_network(),
        stamp=lambda: datetime.now(UTC).isoformat(),
    )


def guard_until(stop: threading.Event, *, guardian: Guardian) -> None:
    guardian.warm_up()
    while not stop.is_set():
        try:
            guardian.tick()
        except (GuardError, OSError) as error:
            logger.error("%s", error)
        stop.wait(TICK_SECONDS)


def guard_directory() -> Path:
    return Path(os.environ.get("LBADMIN_GUARD_DIR") or DEFAULT_DIRECTORY)


def make_kernels() -> tuple[NodeKernel, ...]:
    """As the worker's environment asks for it, and then the driver that works wherever iptables does."""
    flavour = _choice("LBADMIN_FLAVOUR")
    driver = _choice("LBADMIN_DRIVER")
    drivers = dict.fromkeys((DriverName(driver) if driver else None, DriverName.IPTABLES_RESTORE))
    return tuple(
        NodeKernel(
            flavour=Flavour(flavour) if flavour else None,
            driver=one,
            this_host=_flag("LBADMIN_THIS_HOST"),
            meter=Meter(directory=guard_directory()),
        )
        for one in drivers
    )


def _choice(name: str) -> str | None:
    value = os.environ.get(name, AUTO)
    return None if value == AUTO else value


def _flag(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}


if __name__ == "__main__":
    sys.exit(main())
