"""One write, whole: read, plan, write, read back, and on any failure put back what was there.

The caller holds the writer lock. Foreign rules are neither compared nor put back: they are never touched.
"""

from collections.abc import Callable
from dataclasses import dataclass

from balancer.domain.types import Family
from balancer.kernel.base import Busy, Flavour, KernelError, OutcomeUnknown, Rejected
from balancer.kernel.counted import CountedDriver
from balancer.kernel.flavour import parse_text, read_snapshot, read_text
from balancer.kernel.plan import (
    TablePlan,
    Wanted,
    describe_difference,
    find_foreign_references,
    make_plan,
    want_own_part,
)
from balancer.kernel.readable import refuse_unreadable
from balancer.ruleset.parse import Snapshot

ATTEMPTS = 3
"""A plan that fails is made anew while what the kernel holds calls for another one: somebody else may have
taken our jump out after we read."""

HOLDS_BEFORE = "The kernel holds what it held before."


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    flavour: Flavour
    family: Family
    driver: CountedDriver
    put_back: CountedDriver
    """Writes any text that iptables-save prints, so also what others left in our chains."""
    lock: int
    """Descriptor of the writer lock, inherited by every process that writes."""
    go_on: Callable[[TablePlan, Snapshot], TablePlan] = lambda plan, _: plan
    """Has the last word on what is written of a table that is committed anyway."""

    def bring_in(self, wanted: Wanted, *, jumps_first: bool = False) -> tuple[TablePlan, ...]:
        """Makes our part of the kernel equal to `wanted`; returns what that took, nothing for nothing to do.

        Raises Busy or Rejected with the kernel as it was, or OutcomeUnknown.
        """
        before = now = self._read_first()
        plans = whole = self._plan(now, wanted, jumps_first=jumps_first)
        for _ in range(ATTEMPTS):
            try:
                self._write(now, plans)
                if plans:
                    self._verify(wanted)
                return whole
            except KernelError as error:
                failure = error
            now = self._read_after(failure)
            attempted, plans = plans, self._plan(now, wanted, jumps_first=jumps_first)
            if plans == attempted:
                break
        raise self._undo(before, failure) from failure

    def _plan(
        self, snapshot: Snapshot, wanted: Wanted, *, jumps_first: bool = False
    ) -> tuple[TablePlan, ...]:
        return make_plan(snapshot=snapshot, wanted=wanted, family=self.family, jumps_first=jumps_first)

    def _write(self, now: Snapshot, plans: tuple[TablePlan, ...]) -> None:
        _refuse_foreign_references(now, plans)
        whole = tuple(self.go_on(plan, now) for plan in plans)
        self.driver.write(whole, pass_fds=(self.lock,))

    def _read_first(self) -> Snapshot:
        text = read_text(flavour=self.flavour, family=self.family)
        refuse_unreadable(text, flavour=self.flavour, family=self.family)
        return parse_text(text)

    def _read(self) -> Snapshot:
        return read_snapshot(flavour=self.flavour, family=self.family)

    def _read_after(self, failure: KernelError) -> Snapshot:
        try:
            return self._read()
        except KernelError as second:
            raise OutcomeUnknown(
                f"{failure} Reading what the kernel holds now failed too: {second}"
            ) from failure

    def _verify(self, wanted: Wanted) -> None:
        lines = describe_difference(snapshot=self._read(), wanted=wanted, family=self.family)
        if lines:
            raise Rejected(
                f"Read back, the kernel shows other rules than were written ({len(lines)} lines differ): "
                + "; ".join(lines[:4])
            )

    def _undo(self, before: Snapshot, error: KernelError) -> KernelError:
        """Puts our part back as it was; returns the error to raise."""
        earlier = want_own_part(before)
        try:
            self.put_back.write(self._plan(self._read(), earlier), pass_fds=(self.lock,))
            self._verify(earlier)
        except KernelError as second:
            return OutcomeUnknown(
                f"{error} Putting the earlier rules back failed too: {second}"
                " Compare the node with its revision before trusting it."
            )
        kind = Busy if isinstance(error, Busy) else Rejected
        return kind(f"{str(error).rstrip('.')}. {HOLDS_BEFORE}")


def _refuse_foreign_references(before: Snapshot, plans: tuple[TablePlan, ...]) -> None:
    found = find_foreign_references(snapshot=before, plans=plans)
    if found:
        raise Rejected(
            f"Rules that are not lbadmin's point to chains that have to go: {'; '.join(found[:3])}."
            " Delete those rules first. Nothing was changed."
        )
