"""What a process that counts knows from one look to the next, and what of it the rows have."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from balancer.domain.types import Service
from balancer.kernel.counter_table import Place
from balancer.kernel.flow_counts import Carried
from balancer.kernel.sampler import Carrying, Look
from balancer.workflow.counters import Totals

Shares = dict[str, tuple[Service, Mapping[str, int]]]
"""Service -> its declared shares, as long as it stays as it is."""

DOUBTED_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A look, as far as the next one needs it."""

    at: datetime
    steady: float
    """On a clock that nobody sets."""
    totals: Totals
    carried: Mapping[Place, Carried]
    """Packets and bytes since the last look that was kept."""


@dataclass(slots=True)
class CountingMemory:
    told: Totals | None = None
    """What the rows say altogether; None until they were read."""
    shares: Shares = field(default_factory=dict)
    carrying: tuple[tuple[int, str], Carrying] | None = None
    """With the revision's key and the digest of the overrides: reading and compiling it may take seconds."""
    doubted_until: float = 0.0
    """On the clock that nobody sets: the other one has made a leap, and may make it back."""
    last: Taken | None = None
    kept: Taken | None = None
    """The last that the rows have."""

    def settle(self, counted_at: datetime | None) -> None:
        """Find out whether the last look was kept: only the rows can say, whatever ended in between.

        `counted_at` is the time of the newest look that they have. Where another process wrote that one, all
        begins with what the rows say.
        """
        last = self.last
        if last is not None and last.at == counted_at:
            if last is not self.kept and self.told is not None:
                told = self.told
                self.told |= {key: max(count, told.get(key, 0)) for key, count in last.totals.items()}
            self.kept = last
        elif self.kept is None or self.kept.at != counted_at:
            self.told = self.last = self.kept = None

    def whole(self, look: Look) -> Look:
        """With packets and bytes of looks that were not kept."""
        if self.last is None or self.last is self.kept:
            return look
        carried = dict(look.carried)
        for place, had in self.last.carried.items():
            now = carried.get(place, Carried())
            carried[place] = replace(now, packets=now.packets + had.packets, bytes=now.bytes + had.bytes)
        return replace(look, carried=carried)

    def believes(self, counted_at: datetime | None, *, at: datetime, steady: float) -> bool:
        """Whether what is old by the clock may go: not in the hour after a leap of more than that."""
        if counted_at is not None:
            passed = timedelta(seconds=steady - self.kept.steady) if self.kept is not None else timedelta()
            if at - counted_at - passed > DOUBTED_FOR:
                self.doubted_until = steady + DOUBTED_FOR.total_seconds()
        return steady >= self.doubted_until

    def seconds_since(self, counted_at: datetime | None, *, at: datetime, steady: float) -> float:
        """Since the newest look that was kept; 0 where there was none."""
        if self.kept is not None:
            return steady - self.kept.steady
        return (at - counted_at).total_seconds() if counted_at is not None else 0.0
