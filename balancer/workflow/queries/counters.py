"""What nodes counted of one service, as it is plotted: equal steps, with what is not known left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median

from balancer.domain.counters import (
    FINE,
    NOTHING,
    SHARE_UNITS,
    TimedPoint,
    coarsen,
    declared_shares,
    ending_of,
)
from balancer.kernel.counter_table import Kind
from balancer.models import Cluster, Node
from balancer.workflow.queries.counted import Mark, Total, find_marks, find_notes, find_totals
from balancer.workflow.queries.counter_points import OTHERS, busiest_of, points_of, read_kept

BACKENDS_SHOWN = 8
"""Lines that can still be told apart; the rest is one line."""
RARE_SECONDS, LOOKS_ASKED = 1.5 * FINE, 5
SPREAD_SECONDS = 300
"""Looks that are no further apart than this belong together."""


class Span(StrEnum):
    """How much of the past is shown."""

    QUARTER = "quarter"
    """Of an hour."""
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    @property
    def length(self) -> timedelta:
        minutes = {"quarter": 15, "hour": 60, "day": 24 * 60, "month": 30 * 24 * 60}
        return timedelta(minutes=minutes[self])

    @property
    def step(self) -> int:
        """Seconds from one point to the next."""
        return {"quarter": FINE, "hour": FINE, "day": 60, "month": 3600}[self]

    @property
    def fair_step(self) -> int:
        """Shares of a few connections say nothing, so they are taken of longer times."""
        return {"quarter": 30, "hour": 60, "day": 900, "month": 6 * 3600}[self]


Line = tuple[float | None, ...]
"""One number for each step; None where no node counted."""


@dataclass(frozen=True, slots=True)
class BackendLines:
    endpoint: str
    count: int
    """New connections in all of the time."""
    new: Line
    """Each second."""
    packets: Line
    bytes: Line
    current: Line
    """The most at once, within the step."""
    observed: Line
    """Share of new connections in percent, in steps of their own."""
    declared: Line


@dataclass(frozen=True, slots=True)
class CountersView:
    span: Span
    until: datetime
    times: tuple[datetime, ...]
    """The end of each step."""
    fair_times: tuple[datetime, ...]
    backends: tuple[BackendLines, ...]
    """The busiest first."""
    refused: Mapping[str, Line]
    """Reason -> packets each second."""
    marks: tuple[Mark, ...]
    totals: tuple[Total, ...]
    refusals: tuple[Total, ...]
    notes: tuple[str, ...]
    """What is missing, in sentences."""


def view_counters(
    *, cluster: Cluster, name: str, span: Span, now: datetime, node: Node | None = None, backend: str = ""
) -> CountersView:
    """Of a service by its name, on all nodes of the cluster or on one; of all its backends, or of one."""
    nodes = [node] if node is not None else list(cluster.nodes.defer("observation", "clients"))
    until = ending_of(now - timedelta(seconds=span.step), step=span.step)
    since = until - span.length
    kept = [read_kept(one, name=name, since=since, until=until) for one in nodes]
    endpoints = [backend] if backend else busiest_of(kept)
    names = set(endpoints[:BACKENDS_SHOWN])
    if len(endpoints) > BACKENDS_SHOWN:
        endpoints = [*endpoints[:BACKENDS_SHOWN], OTHERS]
    points = [points_of(one, names=names, since=since, until=until) for one in kept]
    samples = [sample for one in kept for sample in one.samples]
    times = _steps(since, until, step=span.step)
    fair_times = _steps(since, ending_of(until, step=span.fair_step), step=span.fair_step)
    rows = [_by_step(found, step=span.step) for found in points]
    fair_rows = [_by_step(found, step=span.fair_step) for found in points]
    shown = [_spread(steps, step=span.step) for steps in rows]
    lines = [
        _lines(e, shown, count=_count(e, rows), times=times, fair_rows=fair_rows, fair_times=fair_times)
        for e in endpoints
    ]
    return CountersView(
        span=span,
        until=until,
        times=times,
        fair_times=fair_times,
        backends=tuple(lines),
        refused={} if backend else _refused(shown, times=times),
        marks=find_marks(nodes, since=since, until=now),
        totals=find_totals(nodes, name=name, kind=Kind.BACKEND, samples=samples, only=backend),
        refusals=find_totals(nodes, name=name, kind=Kind.REFUSAL, samples=samples),
        notes=(*find_notes(nodes, now=now), *_rare_looks(nodes, points)),
    )


def _rare_looks(nodes: list[Node], points: list[list[TimedPoint]]) -> Iterable[str]:
    """Where looks are so dear that they are further apart than the plots' steps."""
    for node, found in zip(nodes, points, strict=True):
        seconds = median(one.seconds for one in found[-LOOKS_ASKED:]) if found else 0
        if RARE_SECONDS < seconds <= SPREAD_SECONDS:
            yield (
                f"{node.name} is looked at about every {seconds:.0f} seconds, since it has very many rules:"
                " its lines show the mean of that time."
            )


def _steps(since: datetime, until: datetime, *, step: int) -> tuple[datetime, ...]:
    first = ending_of(since + timedelta(seconds=1), step=step)
    count = round((until - first).total_seconds()) // step + 1
    return tuple(first + timedelta(seconds=index * step) for index in range(count))


Steps = Mapping[datetime, TimedPoint]


def _by_step(points: Iterable[TimedPoint], *, step: int) -> Steps:
    return {one.at: one for one in coarsen(points, step=step)}


def _spread(steps: Steps, *, step: int) -> Steps:
    """A point stands for all of the time since the look before: where that was longer than a step, its rates
    are those of the steps in between, too. Else lines of several nodes would be added where only some have
    a point. After a long time without looks nobody knows when it was."""
    found = dict(steps)
    for at, one in steps.items():
        covered = round(one.seconds / step) if one.seconds <= SPREAD_SECONDS else 1
        for number in range(1, covered):
            found.setdefault(at - timedelta(seconds=number * step), one)
    return found


def _count(endpoint: str, rows: list[Steps]) -> int:
    return sum(one.point.backends.get(endpoint, NOTHING)[0] for steps in rows for one in steps.values())


def _lines(
    endpoint: str,
    rows: list[Steps],
    *,
    count: int,
    times: tuple[datetime, ...],
    fair_rows: list[Steps],
    fair_times: tuple[datetime, ...],
) -> BackendLines:
    def rate(index: int) -> Line:
        return tuple(
            _sum(
                one.point.backends.get(endpoint, NOTHING)[index] / one.seconds if one.seconds else 0.0
                for one in _at(rows, at)
            )
            for at in times
        )

    current = tuple(
        _sum(float(one.point.backends.get(endpoint, NOTHING)[3]) for one in _at(rows, at)) for at in times
    )
    fair = [_fairness(endpoint, list(_at(fair_rows, at))) for at in fair_times]
    return BackendLines(
        endpoint=endpoint,
        count=count,
        new=rate(0),
        packets=rate(1),
        bytes=rate(2),
        current=current,
        observed=tuple(observed for observed, _ in fair),
        declared=tuple(declared for _, declared in fair),
    )


def _at(rows: list[Steps], at: datetime) -> Iterable[TimedPoint]:
    return (steps[at] for steps in rows if at in steps)


def _sum(numbers: Iterable[float]) -> float | None:
    found = list(numbers)
    return round(sum(found), 3) if found else None


def _fairness(endpoint: str, points: list[TimedPoint]) -> tuple[float | None, float | None]:
    """Observed and declared share in percent; None where there were no connections to share."""
    whole = sum(point[0] for one in points for point in one.point.backends.values())
    own = sum(one.point.backends.get(endpoint, NOTHING)[0] for one in points)
    declared = declared_shares(one.point for one in points)
    return (
        round(100 * own / whole, 2) if whole else None,
        round(100 * declared.get(endpoint, 0) / SHARE_UNITS, 2) if declared else None,
    )


def _refused(rows: list[Steps], *, times: tuple[datetime, ...]) -> dict[str, Line]:
    reasons = sorted({reason for steps in rows for one in steps.values() for reason in one.point.refused})
    return {
        reason: tuple(
            _sum(
                one.point.refused.get(reason, 0) / one.seconds if one.seconds else 0.0
                for one in _at(rows, at)
            )
            for at in times
        )
        for reason in reasons
    }
