"""One transaction with python-iptables: plans on standard input, an answer on standard output, the end.

Run by `pyiptables.py` only. The rules of this process: one thread; every value checked before libxtables
sees it; the xtables lock held from reading the table to the commit; autocommit off; only the chains of the
plan are touched; a commit that fails is told, never swallowed.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balancer.domain.types import Family
from balancer.kernel.base import Busy, KernelError, Rejected
from balancer.kernel.checks import Unfit, check_builtin, check_chain, read_rule
from balancer.kernel.lock import hold_xtables_lock
from balancer.kernel.plan import JumpEdit, TablePlan
from balancer.kernel.pyiptables_loading import prepare_import
from balancer.ruleset.ir import Rule, TableName

if TYPE_CHECKING:
    import iptc

COMMIT_ATTEMPTS = 5
"""The kernel answers EAGAIN when a table changed between reading and commit: somebody ignored the lock."""

_TABLES = ("filter", "mangle", "raw", "nat", "security")


def main() -> None:
    answer_to = _keep_standard_output()
    try:
        answer = _serve(json.load(sys.stdin))
    except Busy as error:
        answer = {"error": "busy", "message": str(error)}
    except (KernelError, Unfit) as error:
        answer = {"error": "rejected", "message": str(error)}
    os.write(answer_to, json.dumps(answer).encode())
    # Not a normal end: the destructors of python-iptables would touch the tables once more.
    os._exit(0)


def _keep_standard_output() -> int:
    """python-iptables redirects descriptor 1 while it works; the answer gets a descriptor of its own."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def _serve(request: dict[str, Any]) -> dict[str, object]:
    family = Family(request["family"])
    plans = [_read_plan(plan) for plan in request["plans"]]
    # All of them before the first is written: a bad value in the second table must not leave half a change.
    rules = [_read_rules(plan, family=family) for plan in plans]
    prepare_import()
    with hold_xtables_lock(path=Path(request["lock"]), wait_seconds=request["wait_seconds"]):
        for plan, plan_rules in zip(plans, rules, strict=True):
            _write(plan, plan_rules)
    return {"committed": True}


def _read_plan(data: dict[str, Any]) -> TablePlan:
    plan = TablePlan(
        table=TableName(data["table"]).value,
        create=tuple(data["create"]),
        write={chain: tuple(texts) for chain, texts in data["write"].items()},
        delete=tuple(data["delete"]),
        jumps=tuple(JumpEdit(**jump) for jump in data["jumps"]),
    )
    for chain in (*plan.create, *plan.write, *plan.delete, *(jump.chain for jump in plan.jumps)):
        check_chain(chain)
    for jump in plan.jumps:
        check_builtin(jump.builtin)
    return plan


def _read_rules(plan: TablePlan, *, family: Family) -> dict[str, list[Rule]]:
    return {chain: [read_rule(text, family=family) for text in texts] for chain, texts in plan.write.items()}


def _write(plan: TablePlan, rules: dict[str, list[Rule]]) -> None:
    # Imported here: loading it reads libraries and calls out, which a plan that is refused need not wait for.
    import iptc

    from balancer.kernel.pyiptables_rules import commit, edit_table

    # Making a rule, python-iptables looks for its target among the chains of every table, and opening a
    # table creates it. Only the one that we write is opened.
    iptc.Table.existing_table_names.update({name: name == plan.table for name in _TABLES})
    for _ in range(COMMIT_ATTEMPTS):
        table = _open(iptc, plan.table)
        try:
            edit_table(table, plan, rules)
        except (iptc.IPTCError, iptc.XTablesError, AttributeError, TypeError, ValueError) as error:
            raise Rejected(f"The kernel refused the rules of table {plan.table}: {error}") from error
        failure = commit(table)
        if failure == 0:
            return
        if failure != errno.EAGAIN:
            raise Rejected(f"The kernel refused the rules of table {plan.table}: {os.strerror(failure)}.")
    raise Busy(
        f"Another program kept changing table {plan.table} without taking the xtables lock."
        " Nothing was changed in this table; try again."
    )


def _open(iptc: Any, name: str) -> "iptc.Table":
    """The table as it is now. Tables are cached: opening a second time means reading again."""
    try:
        known = name in iptc.Table._cache
        table = iptc.Table(name, autocommit=False)
        if known:
            table.refresh()
    except iptc.IPTCError as error:
        raise Rejected(f"Table {name} cannot be opened: {error}") from error
    return table


if __name__ == "__main__":
    main()
