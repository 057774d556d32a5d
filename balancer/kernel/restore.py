"""The driver iptables-restore, for either flavour.

One table, one process, one commit. `--noflush` leaves what is not named alone; naming a chain of our own
empties it first. The tool commits at the COMMIT line only, so input that is cut short changes nothing.
"""

import re
from collections.abc import Sequence

from balancer.domain.types import Family
from balancer.kernel.base import Busy, Flavour, KernelError, Rejected
from balancer.kernel.flavour import tool_name
from balancer.kernel.order import leaves_first, pivots
from balancer.kernel.plan import JumpEdit, TablePlan
from balancer.kernel.tools import Completed, run_tool

WRITE_TIMEOUT_SECONDS = 120
"""Far above the 0.3 s that 50,000 rules take; only a tool that hangs is stopped."""

_LINE = re.compile(r"line:? (\d+)")
# iptables/xshared.c: the lock; strerror(EAGAIN): somebody without the lock committed in between.
_BUSY = ("xtables lock", "Resource temporarily unavailable")


class RestoreDriver:
    """Writes plans of one flavour and family."""

    def __init__(self, *, flavour: Flavour, family: Family, wait_seconds: float) -> None:
        self._tool = tool_name(flavour=flavour, verb="restore", family=family)
        self._wait = max(1, round(wait_seconds))

    def write(self, plans: Sequence[TablePlan], *, pass_fds: tuple[int, ...] = ()) -> None:
        """Commits table by table, in this order, and stops at the first that fails.

        Raises Rejected or Busy when that table is as it was, else OutcomeUnknown. `pass_fds` are inherited
        by the process that writes.
        """
        for plan in plans:
            self._write_table(plan, pass_fds=pass_fds)

    def _write_table(self, plan: TablePlan, *, pass_fds: tuple[int, ...]) -> None:
        text = render_plan(plan)
        done = run_tool(
            [self._tool, "--noflush", "-w", str(self._wait)],
            text=text,
            timeout_seconds=WRITE_TIMEOUT_SECONDS + self._wait,
            pass_fds=pass_fds,
        )
        if done.code != 0:
            raise classify_failure(done, text=text, table=plan.table)


def render_plan(plan: TablePlan) -> str:
    """Chains before what leads to them; deletions last, when nothing points there any more."""
    made = pivots(plan.write)
    lines = [f"*{plan.table}", *map(_render_chain, made)]
    already = set(made)
    for chain in leaves_first(plan.write):
        lines += [] if chain in already else [_render_chain(chain)]
        lines += [f"-A {chain} {rule}" for rule in plan.write[chain]]
    lines += [
        f"-I {chain} {number} {rule}"
        for chain, rules in plan.prepend.items()
        for number, rule in enumerate(rules, start=1)
    ]
    lines += [
        f"-D {chain} {first}" for chain, (first, last) in plan.cut.items() for _ in range(first, last + 1)
    ]
    lines += [line for jump in plan.jumps for line in _render_jump(jump)]
    lines += [f"-F {chain}" for chain in plan.delete]
    lines += [f"-X {chain}" for chain in plan.delete]
    return "\n".join([*lines, "COMMIT", ""])


def classify_failure(done: Completed, *, text: str, table: str) -> KernelError:
    """What the tool said, as the error that says what to do."""
    said = " ".join(line.strip() for line in done.errors.splitlines() if _says_something(line))
    if any(words in done.errors for words in _BUSY):
        return Busy(
            f"Another program was changing the firewall for too long (table {table}): {said}."
            " Nothing was changed in this table; try again."
        )
    offending = _offending_line(done.errors, lines=text.splitlines())
    where = f", at {offending!r}" if offending else ""
    return Rejected(
        f"The kernel refused the rules of table {table}{where}: {said or f'exit code {done.code}'}"
    )


def _render_chain(chain: str) -> str:
    return f":{chain} - [0:0]"


def _render_jump(jump: JumpEdit) -> list[str]:
    lines = [f"-D {jump.builtin} -j {jump.chain}"] * jump.drop
    if jump.insert_at is not None:
        place = "" if jump.insert_at == 1 else f" {jump.insert_at}"
        lines.append(f"-I {jump.builtin}{place} -j {jump.chain}")
    return lines


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("Try `", "# Warning:"))


def _offending_line(errors: str, *, lines: Sequence[str]) -> str | None:
    found = _LINE.search(errors)
    if found is None or not 0 < int(found[1]) <= len(lines):
        return None
    line = lines[int(found[1]) - 1]
    # Many refusals come only at the commit, and the tool then names that line.
    return None if line == "COMMIT" else line
