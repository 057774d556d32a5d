"""The process of the self-test: a namespace of its own, the real driver, and a look at what came of it."""

import json
import sys
from dataclasses import replace

from balancer.domain.types import Document
from balancer.kernel.base import Flavour, KernelError
from balancer.kernel.capabilities import Missing, Need, need_of_rule
from balancer.kernel.capability_trials import try_all
from balancer.kernel.client_sets import client_sets_for
from balancer.kernel.flavour import read_snapshot
from balancer.kernel.network_sets import network_sets_for
from balancer.kernel.plan import describe_difference, make_plan, want_ruleset
from balancer.kernel.pyiptables import PythonIptablesDriver
from balancer.kernel.scratch import in_scratch_namespace
from balancer.kernel.selftest import EVERY_FORM
from balancer.ruleset.ir import Ruleset, Table, TableName
from balancer.ruleset.parse import Snapshot, own_chains

WAIT_SECONDS = 5


def main() -> None:
    try:
        with in_scratch_namespace("the self-test"):
            missing = try_all(flavour=Flavour.LEGACY, family=EVERY_FORM.family)
            reason = _try_every_form(without(EVERY_FORM, missing))
    except (KernelError, OSError) as error:
        reason = str(error)
    json.dump({"reason": reason}, sys.stdout)


def without(ruleset: Ruleset, missing: Missing) -> Ruleset:
    """What the kernel cannot carry through any driver says nothing about this one."""

    def carried(table: Table) -> Table:
        chains = {
            chain: tuple(rule for rule in rules if need_of_rule(rule) not in missing)
            for chain, rules in table.chains.items()
        }
        return replace(table, chains=chains)

    tables = [
        table for table in ruleset.tables if table.name is not TableName.RAW or Need.SYN_PROXY not in missing
    ]
    lists = {} if Need.NETWORK_SETS in missing else ruleset.lists
    return replace(ruleset, tables=tuple(map(carried, tables)), lists=lists)


def _try_every_form(forms: Ruleset) -> str | None:
    family = forms.family
    wanted = want_ruleset(forms)
    # Never the restore path: it is python-iptables that is on trial.
    driver = PythonIptablesDriver(family=family, wait_seconds=WAIT_SECONDS, bulk_rules=sys.maxsize)
    before = read_snapshot(flavour=Flavour.LEGACY, family=family)
    with network_sets_for(forms), client_sets_for(forms, document=Document()):
        driver.write(make_plan(snapshot=before, wanted=wanted, family=family))
    after = read_snapshot(flavour=Flavour.LEGACY, family=family)
    lines = describe_difference(snapshot=after, wanted=wanted, family=family) or _strictly(after, forms)
    return f"it wrote other rules than it was told: {'; '.join(lines[:4])}" if lines else None


def _strictly(after: Snapshot, forms: Ruleset) -> tuple[str, ...]:
    """The same comparison, for which the phase of a round robin counts too."""
    return tuple(
        f"{table.name} {chain}: {', '.join(map(str, found.get(chain, ())))}"
        for table in forms.tables
        for found in [own_chains(after.table(table.name), family=forms.family)]
        for chain, rules in table.chains.items()
        if found.get(chain) != rules
    )


if __name__ == "__main__":
    main()
