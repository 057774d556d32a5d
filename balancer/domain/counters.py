"""What is kept of counters, and how fine points become coarse ones. Pure.

A *point* is what happened since the look before. Fine points stand ten seconds apart and coarse ones five
minutes. A slice is many points of one service, with every backend that has anything in it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

FINE, COARSE = 10, 300
"""Seconds between two points."""
FINE_SPAN, COARSE_SPAN = timedelta(minutes=5), timedelta(hours=6)
"""How much one slice holds."""
FINE_KEPT, COARSE_KEPT = timedelta(hours=24), timedelta(days=30)
SHARE_UNITS = 10_000
"""A declared share is kept in parts of so many."""

BackendPoint = tuple[int, int, int, int, int]
"""New connections, packets and bytes in the time of the point; connections at its end (in a coarse point, the
most of them); declared share in `SHARE_UNITS`."""
NOTHING: BackendPoint = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePoint:
    backends: Mapping[str, BackendPoint] = field(default_factory=dict)
    """Endpoint -> its part."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Reason -> packets."""

    @property
    def is_idle(self) -> bool:
        return not any(any(one[:4]) for one in self.backends.values()) and not any(self.refused.values())

    def to_data(self) -> list[Any]:
        return [{name: list(one) for name, one in self.backends.items()}, dict(self.refused)]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> "ServicePoint":
        backends, refused = data
        return cls(backends={name: _point(one) for name, one in backends.items()}, refused=dict(refused))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Points of one service, with their distance from the slice's start and the time that each stands for."""

    offsets: tuple[int, ...]
    """Seconds from the start to the end of each point."""
    seconds: tuple[float, ...]
    points: tuple[ServicePoint, ...]

    def to_data(self) -> dict[str, Any]:
        """By column: numbers that are alike stand together, and are packed well."""
        names = sorted({name for point in self.points for name in point.backends})
        reasons = sorted({reason for point in self.points for reason in point.refused})
        return {
            "at": list(self.offsets),
            "for": list(self.seconds),
            "backends": {
                name: list(zip(*(point.backends.get(name, NOTHING) for point in self.points), strict=True))
                for name in names
            },
            "refused": {
                reason: [point.refused.get(reason, 0) for point in self.points] for reason in reasons
            },
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Slice":
        offsets = tuple(data["at"])
        rows = {name: list(zip(*columns, strict=True)) for name, columns in data["backends"].items()}
        points = tuple(
            ServicePoint(
                backends={name: _point(row[index]) for name, row in rows.items()},
                refused={reason: counts[index] for reason, counts in data["refused"].items()},
            )
            for index in range(len(offsets))
        )
        return cls(offsets=offsets, seconds=tuple(data["for"]), points=points)


def fold_others(data: Mapping[str, Any], *, names: Collection[str], others: str) -> Mapping[str, Any]:
    """`Slice.to_data` with all backends but `names` as one: by column, since there may be a thousand."""
    kept = {name: columns for name, columns in data["backends"].items() if name in names}
    rest = [columns for name, columns in data["backends"].items() if name not in names]
    if rest:
        columns = zip(*rest, strict=True)
        kept[others] = [[sum(cells) for cells in zip(*column, strict=True)] for column in columns]
    return {**data, "backends": kept}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPoint:
    at: datetime
    """Its end."""
    seconds: float
    point: ServicePoint


def timed(start: datetime, found: Slice) -> tuple[TimedPoint, ...]:
    return tuple(
        TimedPoint(at=start + timedelta(seconds=offset), seconds=seconds, point=point)
        for offset, seconds, point in zip(found.offsets, found.seconds, found.points, strict=True)
    )


def make_slice(start: datetime, points: Iterable[TimedPoint]) -> Slice:
    found = sorted(points, key=lambda one: one.at)
    return Slice(
        offsets=tuple(round((one.at - start).total_seconds()) for one in found),
        seconds=tuple(one.seconds for one in found),
        points=tuple(one.point for one in found),
    )


def coarsen(points: Iterable[TimedPoint], *, step: int = COARSE) -> tuple[TimedPoint, ...]:
    """One point for each whole step in which there are any."""
    steps: dict[datetime, list[TimedPoint]] = {}
    for one in points:
        steps.setdefault(ending_of(one.at, step=step), []).append(one)
    return tuple(
        TimedPoint(at=at, seconds=round(sum(one.seconds for one in found), 3), point=add(found))
        for at, found in sorted(steps.items())
    )


def add(points: Iterable[TimedPoint]) -> ServicePoint:
    """Sums of what happened, the most connections there were at once, and the share that was declared."""
    found = list(points)
    backends: dict[str, BackendPoint] = {}
    refused: dict[str, int] = {}
    for one in found:
        for name, (new, packets, size, current, _) in one.point.backends.items():
            had = backends.get(name, NOTHING)
            backends[name] = had[0] + new, had[1] + packets, had[2] + size, max(had[3], current), 0
        for reason, count in one.point.refused.items():
            refused[reason] = refused.get(reason, 0) + count
    declared = declared_shares(one.point for one in found)
    return ServicePoint(
        backends={name: (*point[:4], declared.get(name, 0)) for name, point in backends.items()},
        refused=refused,
    )


def declared_shares(points: Iterable[ServicePoint]) -> dict[str, int]:
    """What each backend should have got of all the connections in these points: where shares were changed
    meanwhile, each counts for the connections that came while it was in force. Without any, the last."""
    sums: Counter[str] = Counter()
    whole, last = 0, ServicePoint()
    for point in points:
        new = sum(one[0] for one in point.backends.values())
        whole, last = whole + new, point if point.backends else last
        for name, one in point.backends.items():
            sums[name] += one[4] * new
    if not whole:
        return {name: one[4] for name, one in last.backends.items()}
    return {name: round(found / whole) for name, found in sums.items()}


def start_of(at: datetime, *, span: timedelta) -> datetime:
    """The beginning of the slice that a point with this end belongs to: ends belong to what they end."""
    size = round(span.total_seconds())
    return datetime.fromtimestamp((round(at.timestamp()) - 1) // size * size, UTC)


def ending_of(at: datetime, *, step: int) -> datetime:
    """The end of the step in which a point ends."""
    return start_of(at, span=timedelta(seconds=step)) + timedelta(seconds=step)


def slot_of(at: datetime) -> datetime:
    """The multiple of ten seconds that is nearest."""
    return datetime.fromtimestamp(round(at.timestamp() / FINE) * FINE, UTC)


def _point(values: Iterable[int]) -> BackendPoint:
    new, packets, size, current, share = values
    return new, packets, size, current, share
