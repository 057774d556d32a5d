"""What has been counted of each backend and each refusal, through rules that come and go. Pure.

The kernel counts in its rules. A rule that goes takes its count along, so each series keeps a base beside
what its rules were seen to hold last. What the kernel shows decides what happened meanwhile; a crash at any
moment leaves a table that the next look brings right.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from ipaddress import ip_address

from balancer.domain.types import Family, Service
from balancer.ruleset import names

_PLAIN = re.compile(r"LB-S-([A-Za-z0-9._-]+):([0-9a-f.:]+)-(\d+)")
"""`names.backend_chain`, where it was short enough to be readable."""
_FIELDS = 8

Place = tuple[str, str]
"""Service, and endpoint of a backend or reason of a refusal."""
RuleKey = tuple[str, str, int]
"""Table, chain of ours, and number of the rule in it, from 0."""
PlaceOf = Callable[[str], Place | None]
"""What a chain with a cut name stands for."""


class Kind(StrEnum):
    BACKEND = "backend"
    REFUSAL = "refusal"


@dataclass(slots=True)
class Series:
    """One backend of one service, or one reason for which packets of a service are refused."""

    kind: Kind
    family: Family
    place: Place
    base: int = 0
    last: int = 0
    """What its rule was seen to hold."""
    retiring: int = 0
    """What rules behind that one were seen to hold, which count no more and are about to go."""

    @property
    def total(self) -> int:
        return self.base + self.last + self.retiring

    def see(self, counts: tuple[int, ...]) -> bool:
        """What its rules hold now, in their order; whether they began anew without our doing."""
        if len(counts) > 1:
            lost = sum(counts) < self.last + self.retiring
            self.base += self.last + self.retiring if lost else 0
            self.last, self.retiring = counts[0], sum(counts[1:])
            return lost
        now = counts[0] if counts else 0
        lost = now < self.last
        self.base += self.retiring + (self.last if lost else 0)
        self.last, self.retiring = now, 0
        return lost and bool(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the rules of one family hold at one moment."""

    family: Family
    backends: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Chain -> connections that each of its DNAT rules counted; of chains in nat that have such a rule."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Chain of ours in nat -> how many rules it has."""
    rules: Mapping[RuleKey, tuple[int, int, str]] = field(default_factory=dict)
    """Packets, bytes and text of the others, where they met any."""
    watched: Mapping[RuleKey, str] = field(default_factory=dict)
    """Text of the rules in nat whose counts are wanted whatever the node carries: those that count
    connections, and those that refuse since there is no backend."""


@dataclass(slots=True)
class CounterTable:
    epoch: str
    """Of its beginning: totals of different epochs have nothing to do with each other."""
    kernel: str = ""
    """Boot and network namespace in which `last` was seen."""
    series: dict[str, Series] = field(default_factory=dict)
    """Chain, or `refusal service reason`."""

    def begin_kernel(self, kernel: str) -> None:
        """Another kernel than before holds none of the rules that were seen."""
        if self.kernel != kernel:
            self.fold(self.series)
            self.kernel = kernel

    def begin(self, chains: Iterable[str], *, family: Family, place_of: PlaceOf | None) -> None:
        """These chains of backends are not there at this moment, and are about to be made."""
        for chain in chains:
            found = self.series.get(chain) or self._begin(chain, family=family, place_of=place_of)
            if found is not None:
                found.see(())

    def fold(self, keys: Iterable[str]) -> None:
        """These have no rules at this moment."""
        for key in keys:
            if key in self.series:
                self.series[key].see(())

    def see(self, reading: Reading, *, place_of: PlaceOf | None = None) -> int:
        """Take in what the kernel holds of backends; how many began anew without our doing."""
        lost = 0
        for chain, series in self.series.items():
            is_of_reading = series.family is reading.family and series.kind is Kind.BACKEND
            if is_of_reading and chain not in reading.backends:
                series.see(())
        for chain, counts in reading.backends.items():
            found = self.series.get(chain) or self._begin(chain, family=reading.family, place_of=place_of)
            if found is not None:
                lost += found.see(counts)
        return lost

    def see_refusals(self, family: Family, counts: Mapping[Place, int]) -> None:
        """Packets by service and reason. A rule that was written anew lets its count begin anew, too."""
        for place, count in counts.items():
            key = _refusal_key(place)
            series = self.series.setdefault(key, Series(Kind.REFUSAL, family, place))
            series.see((count,))

    def adopt(self, told: Mapping[tuple[Kind, Place], int]) -> None:
        """Go on from totals that are known elsewhere: the table was lost."""
        for series in self.series.values():
            known = told.get((series.kind, series.place))
            series.base += known - series.total if known is not None else 0
        places = {(series.kind, series.place) for series in self.series.values()}
        for (kind, place), count in told.items():
            if (kind, place) not in places:
                key, family = _key_of(kind, place)
                self.series[key] = Series(kind, family, place, base=count)

    def catch_up(self, told: Mapping[tuple[Kind, Place], int]) -> None:
        """Nothing has counted less than was told of it: a copy of the table from before has come back."""
        for series in self.series.values():
            series.base += max(0, told.get((series.kind, series.place), 0) - series.total)

    def is_less(self, reading: Reading) -> bool:
        """Whether some rule shows less than it did. While somebody else commits to iptables-legacy, counters
        are zero for a moment."""
        known = self.series
        return any(
            chain in known and counts and sum(counts) < known[chain].last
            for chain, counts in reading.backends.items()
        )

    def _begin(self, chain: str, *, family: Family, place_of: PlaceOf | None) -> Series | None:
        place = place_of_chain(chain) or (place_of(chain) if place_of is not None else None)
        if place is None:
            return None
        return self.series.setdefault(chain, Series(Kind.BACKEND, family, place))


def counts(rules: Iterable[str]) -> bool:
    """Whether a chain with these rules counts the connections of a backend."""
    return any("-j DNAT " in rule for rule in rules)


def place_of_chain(chain: str) -> Place | None:
    """Service and endpoint, where the chain's name was short enough to say so."""
    found = _PLAIN.fullmatch(chain)
    if found is None:
        return None
    service, address, port = found.groups()
    return service, f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _refusal_key(place: Place) -> str:
    return " ".join((Kind.REFUSAL, *place))


def _key_of(kind: Kind, place: Place) -> tuple[str, Family]:
    service, name = place
    if kind is Kind.REFUSAL:
        return _refusal_key(place), Family.IPV4
    address, _, port = name.rpartition(":")
    found = ip_address(address.strip("[]"))
    family = Family.IPV6 if found.version == 6 else Family.IPV4
    return names.backend_chain(service, found, int(port)), family


def places_in(services: Iterable[Service]) -> PlaceOf:
    """What the chains of these services stand for; made when it is asked the first time."""

    @cache
    def known() -> dict[str, Place]:
        return {
            names.backend_chain(service.name, backend.address, backend.port): (service.name, backend.endpoint)
            for service in services
            for backend in service.backends
        }

    return lambda chain: known().get(chain)


def write_rows(table: CounterTable) -> str:
    """One line for each series; its words hold neither tabs nor line breaks."""
    return "\n".join(
        "\t".join((key, one.kind, one.family, *one.place, str(one.base), str(one.last), str(one.retiring)))
        for key, one in table.series.items()
    )


def read_rows(text: str) -> dict[str, Series]:
    """Raises ValueError."""
    found = {}
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) != _FIELDS:
            raise ValueError("a line of another form")
        key, kind, family, service, name, *numbers = words
        base, last, retiring = map(int, numbers)
        found[key] = Series(Kind(kind), Family(family), (service, name), base, last, retiring)
    return found
