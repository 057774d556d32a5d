"""Settings of a worker that is killed at a certain step of a deployment.

The number of the step is in the file LBADMIN_FAULT, which goes first, so that it happens once. `cut` in
front of it takes the uplink away as well.
"""

import os
import signal
import subprocess
from functools import wraps
from pathlib import Path
from typing import Any

from lbadmin.settings import *  # noqa: F403

LBADMIN_GUARD_FACTORY = "tests.stack.faulty.make_faulty_guard"
AFTER_COMMIT = "after-commit"


class Fault:
    """Counts the steps from the arming on, in the process that runs the jobs."""

    def __init__(self, path: Path) -> None:
        self.path, self.passed, self.armed = path, 0, False

    def wrap(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "arm_guard":
                self.passed, self.armed = 0, self.path.exists()
            self.step(f"before {name}")
            result = function(*args, **kwargs)
            self.step(f"after {name}")
            return result

        setattr(owner, name, call)

    def step(self, where: str) -> None:
        if not self.armed:
            return
        cut, _, wanted = self.path.read_text().rpartition(" ")
        if wanted in {str(self.passed), AFTER_COMMIT if where == "after sync" else ""}:
            self.path.unlink()
            print(f"killed {where}", flush=True)
            if cut:
                subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
            os.killpg(0, signal.SIGKILL)
        self.passed += 1


def make_faulty_guard(*, mode: str, directory: str) -> Any:
    from balancer.kernel import guard_files
    from balancer.kernel.guard import FileGuard
    from balancer.kernel.guard_state import GuardDirectory
    from balancer.kernel.node import NodeKernel
    from balancer.kernel.transaction import Transaction
    from balancer.workflow import confirming, jobs

    fault = Fault(Path(os.environ["LBADMIN_FAULT"]))
    steps: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (jobs, ("arm_guard", "note", "settle")),
        (confirming, ("note", "make_probes", "confirm", "record")),
        (NodeKernel, ("sync", "compare")),
        (Transaction, ("_write", "_verify")),
        (FileGuard, ("require_armed", "_wait_until_heard")),
        (GuardDirectory, ("write_confirmed", "write_pending", "drop_pending")),
        (guard_files, ("_write_new", "sync_directory")),
    )
    for owner, names in steps:
        for name in names:
            fault.wrap(owner, name)
    return FileGuard(directory=Path(directory))
