"""The process of the self-test: a namespace of its own, the real driver, and a look at what came of it."""

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path

from balancer.kernel.base import Flavour, KernelError
from balancer.kernel.flavour import read_snapshot
from balancer.kernel.plan import describe_difference, make_plan, want_ruleset
from balancer.kernel.pyiptables import PythonIptablesDriver
from balancer.kernel.selftest import EVERY_FORM

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
WAIT_SECONDS = 5


def main() -> None:
    try:
        _enter_scratch_namespace()
        with tempfile.TemporaryDirectory(prefix="lbadmin-selftest-") as directory:
            # The lock belongs to a machine's tables; a scratch namespace must not hold up the machine.
            os.environ["XTABLES_LOCKFILE"] = str(Path(directory) / "xtables.lock")
            reason = _try_every_form()
    except (KernelError, OSError) as error:
        reason = str(error)
    json.dump({"reason": reason}, sys.stdout)


def _enter_scratch_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # Without CAP_SYS_ADMIN a user namespace of one's own still gives the right to a network namespace.
    if libc.unshare(CLONE_NEWNET) != 0 and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(f"no scratch network namespace for the self-test: {os.strerror(ctypes.get_errno())}")


def _try_every_form() -> str | None:
    family = EVERY_FORM.family
    wanted = want_ruleset(EVERY_FORM)
    # Never the restore path: it is python-iptables that is on trial.
    driver = PythonIptablesDriver(family=family, wait_seconds=WAIT_SECONDS, bulk_rules=sys.maxsize)
    before = read_snapshot(flavour=Flavour.LEGACY, family=family)
    driver.write(make_plan(snapshot=before, wanted=wanted, family=family))
    after = read_snapshot(flavour=Flavour.LEGACY, family=family)
    lines = describe_difference(snapshot=after, wanted=wanted, family=family)
    return f"it wrote other rules than it was told: {'; '.join(lines[:4])}" if lines else None


if __name__ == "__main__":
    main()
