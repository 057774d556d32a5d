"""A driver that loses no count: a rule that counts connections goes only when it counts no more.

Where a chain of a backend goes, or gets other rules, packets reach it until the very commit, and what they
counted would be gone with it. So that commit is made in two: first nothing leads there any more (or other
rules stand before the old ones), then the old rules are read, and then they go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from balancer.kernel.counter_table import PlaceOf, counts
from balancer.kernel.meter import Meter
from balancer.kernel.plan import Rules, TablePlan
from balancer.kernel.restore import RestoreDriver
from balancer.kernel.selection import Driver

COUNTING_TABLE = "nat"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedDriver:
    """See `RestoreDriver`. Without a meter it is the driver alone."""

    driver: Driver | RestoreDriver
    meter: Meter | None
    flavour: Flavour
    family: Family
    place_of: PlaceOf | None = None

    def write(self, plans: Sequence[TablePlan], *, pass_fds: tuple[int, ...] = ()) -> None:
        """See `RestoreDriver.write`. Makes two commits of nat where a chain that counts goes or is redone."""
        if self.meter is None:
            self.driver.write(plans, pass_fds=pass_fds)
            return
        waiting: list[TablePlan] = []
        for plan in plans:
            gone, redone = self._find_counted(plan) if plan.table == COUNTING_TABLE else ((), {})
            if not gone and not redone:
                waiting.append(plan)
                continue
            if redone:
                self._look()
            first = _without(plan, gone=gone, redone=redone)
            self.driver.write([*waiting, *([] if first.is_empty else [first])], pass_fds=pass_fds)
            waiting = [self._rest(plan, gone=gone, redone=redone)]
        self.driver.write(waiting, pass_fds=pass_fds)

    def _find_counted(self, plan: TablePlan) -> tuple[tuple[str, ...], Mapping[str, Rules]]:
        """Chains of backends that go, and those that are there and get other rules."""
        assert self.meter is not None
        new = {chain for chain in plan.create if counts(plan.write[chain])}
        self.meter.begin(new, family=self.family, place_of=self.place_of)
        made = set(plan.create)
        redone = {c: rules for c, rules in plan.write.items() if c not in made and counts(rules)}
        return self.meter.counted(plan.delete), redone

    def _look(self) -> Mapping[str, int]:
        """Chain -> how many rules it has."""
        assert self.meter is not None
        return self.meter.look(flavour=self.flavour, family=self.family, place_of=self.place_of).lengths

    def _rest(self, plan: TablePlan, *, gone: tuple[str, ...], redone: Mapping[str, Rules]) -> TablePlan:
        """What goes now that its count is known."""
        lengths = self._look()
        old = {chain: (len(rules) + 1, lengths.get(chain, 0)) for chain, rules in redone.items()}
        return TablePlan(
            table=plan.table,
            delete=gone,
            cut={chain: (first, last) for chain, (first, last) in old.items() if first <= last},
        )


def _without(plan: TablePlan, *, gone: tuple[str, ...], redone: Mapping[str, Rules]) -> TablePlan:
    """The first commit: all but what goes."""
    return replace(
        plan,
        write={chain: rules for chain, rules in plan.write.items() if chain not in redone},
        delete=tuple(chain for chain in plan.delete if chain not in gone),
        prepend=redone,
    )
