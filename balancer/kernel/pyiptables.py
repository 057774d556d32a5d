"""The driver python-iptables, for iptables-legacy.

python-iptables is not thread-safe, takes no lock, and about 495 bad values break the process for good, so
each transaction runs in a child of its own (`pyiptables_child`), which is given the plans as JSON and ends
with them. This process never imports iptc.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from balancer.domain.types import Family
from balancer.kernel.base import Busy, Flavour, KernelError, OutcomeUnknown, Rejected
from balancer.kernel.lock import xtables_lock_path
from balancer.kernel.plan import TablePlan
from balancer.kernel.restore import WRITE_TIMEOUT_SECONDS, RestoreDriver
from balancer.kernel.tools import Completed, run_tool

CHILD_MODULE = "balancer.kernel.pyiptables_child"
BULK_RULES = 400
"""From here on the restore path is taken: python-iptables needs about 0.3 ms a rule, while
iptables-legacy-restore carries 50,000 rules in 0.3 s."""

_KINDS: Mapping[str, type[KernelError]] = {"rejected": Rejected, "busy": Busy}


class PythonIptablesDriver:
    """Writes plans of iptables-legacy, IPv4."""

    def __init__(self, *, family: Family, wait_seconds: float, bulk_rules: int = BULK_RULES) -> None:
        if family is not Family.IPV4:
            # Its IPv6 code compares one bit of an interface name, so a rule could hit other interfaces.
            raise Rejected("The driver python-iptables carries IPv4 only. Use iptables-restore for IPv6.")
        self._family = family
        self._wait = wait_seconds
        self._bulk_rules = bulk_rules
        self._bulk = RestoreDriver(flavour=Flavour.LEGACY, family=family, wait_seconds=wait_seconds)

    def write(self, plans: Sequence[TablePlan], *, pass_fds: tuple[int, ...] = ()) -> None:
        """See `RestoreDriver.write`."""
        is_partial = any(plan.prepend or plan.cut for plan in plans)
        if is_partial or sum(plan.rule_count for plan in plans) >= self._bulk_rules:
            self._bulk.write(plans, pass_fds=pass_fds)
        elif plans:
            self._write_in_child(plans, pass_fds=pass_fds)

    def _write_in_child(self, plans: Sequence[TablePlan], *, pass_fds: tuple[int, ...]) -> None:
        request = {
            "family": self._family.value,
            "lock": str(xtables_lock_path()),
            "wait_seconds": self._wait,
            "plans": [asdict(plan) for plan in plans],
        }
        done = run_child(
            CHILD_MODULE,
            request=request,
            timeout_seconds=WRITE_TIMEOUT_SECONDS + self._wait,
            pass_fds=pass_fds,
        )
        answer = _read_answer(done)
        if answer.get("committed") is True:
            return
        kind = _KINDS.get(str(answer.get("error")), OutcomeUnknown)
        raise kind(str(answer.get("message")))


def run_child(
    module: str, *, request: Mapping[str, Any], timeout_seconds: float, pass_fds: tuple[int, ...] = ()
) -> Completed:
    """Runs one of our modules with this interpreter and this source tree, `request` on its standard input."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", _START.format(root=str(root), module=module)]
    return run_tool(command, text=json.dumps(request), timeout_seconds=timeout_seconds, pass_fds=pass_fds)


# -c instead of -m: the child must not depend on, or import from, the directory that the worker stands in.
_START = "import runpy, sys; sys.path[0] = {root!r}; runpy.run_module({module!r}, run_name='__main__')"


def _read_answer(done: Completed) -> Mapping[str, Any]:
    try:
        answer = json.loads(done.output)
    except json.JSONDecodeError:
        raise OutcomeUnknown(
            f"The python-iptables process ended without an answer (exit code {done.code}):"
            f" {_last_line(done.errors)}"
        ) from None
    if not isinstance(answer, dict):
        raise OutcomeUnknown("The python-iptables process gave an answer of no known form.")
    return answer


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
