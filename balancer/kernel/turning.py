"""Round robin across commits of iptables-legacy: each starts the cycle at another backend.

Any commit to a legacy table starts all of its nth counters anew. So where the nat table is committed anyway,
every round robin in it is written once more with another beginning (balancer/ruleset/turns.py), chosen by
chance: no rhythm of applies, and no traffic, can then favour one backend. A cycle that was not there before
begins at its first backend.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace

from balancer.kernel.base import Flavour
from balancer.kernel.plan import TablePlan
from balancer.ruleset.ir import Nth, Ruleset, TableName
from balancer.ruleset.parse import Snapshot
from balancer.ruleset.render import render_rule
from balancer.ruleset.turns import turned

_MANY = 1 << 48
"""So many turns that what is left over of the last cycle favours nobody measurably."""


def go_on_elsewhere(
    ruleset: Ruleset | None, *, flavour: Flavour, pick: Callable[[], int] = lambda: secrets.randbelow(_MANY)
) -> Callable[[TablePlan, Snapshot], TablePlan]:
    """What has the last word on the plan of a table (`Transaction.go_on`)."""

    def go_on(plan: TablePlan, snapshot: Snapshot) -> TablePlan:
        if ruleset is None or flavour is not Flavour.LEGACY or plan.table != TableName.NAT:
            return plan
        there = snapshot.table(plan.table).chains
        now = turned(ruleset, offset=lambda chain: pick() if chain in there else 0)
        counting = {
            chain: tuple(map(render_rule, rules))
            for chain, rules in now.table(TableName.NAT).chains.items()
            if any(isinstance(rule.statistic, Nth) for rule in rules)
        }
        return replace(plan, write={**plan.write, **counting})

    return go_on
