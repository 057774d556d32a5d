"""Counting new connections through everything that is written: who reads the counters, and when.

Every method but `take_warnings` is called with the writer lock of the namespace held, so that no chain of
ours comes or goes meanwhile.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from balancer.kernel.counter_files import CounterFiles
from balancer.kernel.counter_reading import read_counters
from balancer.kernel.counter_table import CounterTable, Place, PlaceOf, Reading, place_of_chain
from balancer.kernel.guard import read_boot_id, read_network
from balancer.kernel.guard_files import GuardError

LOOK_AGAIN_SECONDS = 0.05


class Meter:
    """Of one node. What cannot be counted is no reason to leave rules unwritten: it is a warning."""

    def __init__(
        self,
        *,
        directory: Path,
        read: Callable[..., Reading] = read_counters,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._files = CounterFiles(directory)
        self._read, self._pause = read, pause
        self._warnings: list[str] = []

    def look(self, *, flavour: Flavour, family: Family, place_of: PlaceOf | None = None) -> Reading:
        """Take in what the kernel holds now, and keep it on the disk. Raises KernelError."""
        reading = self._read(flavour=flavour, family=family)
        found = self.take_in(reading, flavour=flavour, place_of=place_of)
        self.keep(self.table())
        return found

    def take_in(self, reading: Reading, *, flavour: Flavour, place_of: PlaceOf | None = None) -> Reading:
        """What was read since anybody wrote last, or a better reading of it; kept with the next `keep`."""
        table, family = self.table(), reading.family
        if table.is_less(reading):
            self._pause(LOOK_AGAIN_SECONDS)
            reading = self._read(flavour=flavour, family=family)
        lost = table.see(reading, place_of=place_of)
        if lost:
            self._warnings.append(
                f"The counters of {lost} backend{'' if lost == 1 else 's'} began anew, which is not"
                " lbadmin's doing; what they counted since the last look is not known."
            )
        return reading

    def see_refusals(self, family: Family, counts: Mapping[Place, int]) -> None:
        """As `look`, of rules that refuse; kept with the next `keep`."""
        self.table().see_refusals(family, counts)

    def begin(self, chains: Iterable[str], *, family: Family, place_of: PlaceOf | None) -> None:
        """These chains of backends are not there at this moment, and are about to be made."""
        table = self.table()
        table.begin(chains, family=family, place_of=place_of)
        self.keep(table)

    def counted(self, chains: Iterable[str]) -> tuple[str, ...]:
        """Those of the chains, which are there, that count the connections of a backend."""
        known = self.table().series
        return tuple(chain for chain in chains if chain in known or place_of_chain(chain) is not None)

    def table(self) -> CounterTable:
        """What has been counted, of this kernel: after a reboot nothing is left of what was seen before."""
        table = self._files.read()
        table.begin_kernel(_this_kernel())
        return table

    def keep(self, table: CounterTable) -> None:
        try:
            self._files.write(table)
        except GuardError as error:
            self._warnings.append(f"What was counted could not be kept: {error}")

    def take_warnings(self) -> tuple[str, ...]:
        """What there is to say since the last call."""
        found = tuple(dict.fromkeys((*self._files.said, *self._warnings)))
        self._files.said.clear()
        self._warnings.clear()
        return found


def meter_of_this_kernel(directory: Path) -> Meter | None:
    """For a command that may stand anywhere: where the directory counts this very kernel already."""
    if CounterFiles(directory).read().kernel != _this_kernel():
        return None
    return Meter(directory=directory)


def _this_kernel() -> str:
    """Boot and network namespace."""
    return f"{read_boot_id()} {read_network()}"
