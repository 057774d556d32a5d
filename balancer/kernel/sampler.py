"""One look at everything that a node counts."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from balancer.domain.types import Family, Service
from balancer.kernel.base import Flavour, KernelError
from balancer.kernel.counter_reading import NO_BACKEND, read_counters
from balancer.kernel.counter_table import CounterTable, Kind, Place, Reading, RuleKey, places_in
from balancer.kernel.flow_counts import Carried, Flow, FlowCounts, Owners, Sums, add_lines, by_place, join
from balancer.kernel.flow_events import FlowEvents
from balancer.kernel.lock import hold_writer_lock, writing_of
from balancer.kernel.meter import Meter
from balancer.kernel.nft_reading import NftReading
from balancer.kernel.tools import read_lines
from balancer.ruleset.compile import MARK_BALANCED
from balancer.ruleset.ir import TableName
from balancer.ruleset.names import service_chain
from balancer.ruleset.reasons import Reason

LOCK_SECONDS = 5.0
TRIES = 3
LOST = (
    "{count} connections ended faster than the counting process heard of them, so their last packets and"
    " bytes are missing. New connections are not concerned."
)
BEGUN = (
    "The counting process was started; what connections carried since the last look before that is not known."
    " New connections are not concerned."
)
UNHEARD = (
    "Some connections ended without the kernel's telling, as those do that began while"
    " net.netfilter.nf_conntrack_events was not 1; up to ten seconds of their packets and bytes are missing."
)

Told = Mapping[tuple[Kind, Place], int]
Refusing = Mapping[RuleKey, tuple[str, str]]
"""A rule that refuses -> its service, and the reason."""


@dataclass(frozen=True)
class Carrying:
    """What the node carries, as far as counters have to be told whose they are."""

    services: tuple[Service, ...]
    refusing: Mapping[Family, Refusing] = field(default_factory=dict)

    @cached_property
    def owners(self) -> Owners:
        return Owners(service for service in self.services if service.enabled)

    @cached_property
    def by_chain(self) -> Mapping[str, str]:
        """The chain of a service -> its name."""
        return {service_chain(service.name): service.name for service in self.services}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    epoch: str
    """Totals of different epochs have nothing to do with each other."""
    connections: Mapping[Place, int]
    """New connections of each backend since the epoch began."""
    refused: Mapping[Place, int]
    """Packets by service and reason, as far as they were seen since then."""
    carried: Mapping[Place, Carried]
    """Packets and bytes since the last look, and connections now."""
    notes: tuple[str, ...] = ()
    duration_ms: int = 0


class Sampler:
    """Lives as long as the process that counts. Reads the kernel; writes the counters' own file alone."""

    def __init__(self, *, meter: Meter, flavour: Flavour, lock_directory: Path, events: FlowEvents) -> None:
        self._meter, self._flavour = meter, flavour
        self._lock_directory, self._events = lock_directory, events
        self._nft = {family: NftReading(family=family) for family in Family}
        self._flows = FlowCounts()
        self._later: dict[Flow, Carried] = {}
        """What was heard of behind the last reading of live entries."""

    def look(self, carrying: Carrying, *, epoch: str = "", told: Told | None = None) -> Look:
        """Raises Busy while somebody writes for long, KernelError where something cannot be read.

        `epoch` and `told` are what the caller knows of earlier looks. Where the node's own table is of
        another epoch, it was lost, and goes on from there.
        """
        started = time.monotonic()
        with self._read_rules(carrying) as readings:
            table = self._take_in(readings, carrying)
            if epoch and told and table.epoch != epoch:
                table.adopt(told)
            elif told:
                table.catch_up(told)
            self._meter.keep(table)
        goes_on = self._flows.begun or not epoch
        live, since, flow_notes = self._count_flows()
        return Look(
            epoch=table.epoch,
            connections=_totals(table, Kind.BACKEND),
            refused=_totals(table, Kind.REFUSAL),
            carried=by_place(live, since, owners=carrying.owners),
            notes=(*self._meter.take_warnings(), *flow_notes, *(() if goes_on else (BEGUN,))),
            duration_ms=round((time.monotonic() - started) * 1000),
        )

    def _count_flows(self) -> tuple[dict[Flow, Carried], dict[Flow, Sums], tuple[str, ...]]:
        """Live entries, what was carried since the last look, and what there is to say about it."""
        heard, lost = self._events.take()
        gone = join(self._later, heard)
        live = self._list_flows()
        self._later, lost_later = self._events.take()
        since = self._flows.see(live, gone, later=self._later)
        lost += lost_later
        notes = (LOST.format(count=lost),) if lost else (UNHEARD,) if self._flows.unheard else ()
        return live, since, notes

    @contextmanager
    def _read_rules(self, carrying: Carrying) -> Iterator[list[Reading]]:
        """What the kernel's rules hold, and the writer lock.

        Very many rules take seconds to read, and nobody who writes shall wait for that: it is done without
        the lock, and once more where somebody wrote meanwhile.
        """
        for _ in range(TRIES):
            with self._locked() as lock:
                before = writing_of(lock)
            readings = self._read_families(carrying)
            with self._locked() as lock:
                if writing_of(lock) == before:
                    yield readings
                    return
        with self._locked():
            yield self._read_families(carrying)

    def _locked(self) -> AbstractContextManager[int]:
        return hold_writer_lock(directory=self._lock_directory, wait_seconds=LOCK_SECONDS, writes=False)

    def _read_families(self, carrying: Carrying) -> list[Reading]:
        found = [self._read(Family.IPV4, carrying)]
        with suppress(KernelError):  # a machine without ip6tables
            found.append(self._read(Family.IPV6, carrying))
        return found

    def _read(self, family: Family, carrying: Carrying) -> Reading:
        if self._flavour is Flavour.NFT:
            return self._nft[family].read(carrying.refusing.get(family, {}))
        return read_counters(flavour=self._flavour, family=family)

    def _take_in(self, readings: list[Reading], carrying: Carrying) -> CounterTable:
        place_of = places_in(carrying.services)
        for reading in readings:
            seen = self._meter.take_in(reading, flavour=self._flavour, place_of=place_of)
            self._meter.see_refusals(seen.family, _refused(seen, carrying))
        return self._meter.table()

    def _list_flows(self) -> dict[Flow, Carried]:
        mark = f"{MARK_BALANCED:#x}/{MARK_BALANCED:#x}"
        found: dict[Flow, Carried] = {}
        for family in Family:
            found |= add_lines(read_lines(["conntrack", "-L", "-f", family.value, "--mark", mark]))
        return found


def _refused(reading: Reading, carrying: Carrying) -> dict[Place, int]:
    """A service without backends is known by the rule itself: health checks leave it without any, too."""
    found: Counter[Place] = Counter()
    refusing = carrying.refusing.get(reading.family, {})
    for rule, (packets, _, text) in reading.rules.items():
        table, chain, _ = rule
        if text == NO_BACKEND and table == TableName.NAT and chain in carrying.by_chain:
            found[carrying.by_chain[chain], Reason.NO_BACKEND.value] += packets
        elif rule in refusing and refusing[rule][1] != Reason.NO_BACKEND:
            found[refusing[rule]] += packets
    return found


def _totals(table: CounterTable, kind: Kind) -> dict[Place, int]:
    found: Counter[Place] = Counter()
    for series in table.series.values():
        if series.kind is kind:
            found[series.place] += series.total
    return found
