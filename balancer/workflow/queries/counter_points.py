"""What a node has kept of one service: read as it lies, since of very many backends it is much."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from balancer.domain.counters import (
    COARSE,
    COARSE_SPAN,
    FINE,
    FINE_SPAN,
    Slice,
    TimedPoint,
    fold_others,
    timed,
)
from balancer.models import CounterSample, CounterSlice, Node
from balancer.workflow.counters import NODE_ITSELF, read_point, unpack

OTHERS = "other backends"


@dataclass(frozen=True, slots=True)
class Kept:
    slices: tuple[CounterSlice, ...]
    """Those of the node itself first: the service's own take their place."""
    samples: tuple[TimedPoint, ...]
    """What is not in slices yet, whenever it was."""


def read_kept(node: Node, *, name: str, since: datetime, until: datetime) -> Kept:
    slices = CounterSlice.objects.filter(
        Q(step=FINE, start__gt=since - FINE_SPAN) | Q(step=COARSE, start__gt=since - COARSE_SPAN),
        node=node,
        service_name__in=(NODE_ITSELF, name),
        start__lt=until,
    )
    samples = CounterSample.objects.filter(node=node)
    return Kept(
        slices=tuple(slices.order_by("service_name", "start")),
        samples=tuple(
            TimedPoint(at=one.at, seconds=one.seconds, point=read_point(one, name)) for one in samples
        ),
    )


def busiest_of(kept: Iterable[Kept]) -> list[str]:
    """Every backend that was seen, by new connections and then by name."""
    counts: Counter[str] = Counter()
    for found in kept:
        for row in found.slices:
            for name, columns in unpack(row.packed)["backends"].items():
                counts[name] += sum(columns[0])
        for sample in found.samples:
            for name, point in sample.point.backends.items():
                counts[name] += point[0]
    return sorted(counts, key=lambda name: (-counts[name], name))


def points_of(kept: Kept, *, names: set[str], since: datetime, until: datetime) -> list[TimedPoint]:
    """Of every time at which the node counted: that of the service where anything happened, else nothing.

    All backends but `names` are one, `OTHERS`.
    """
    found: dict[datetime, TimedPoint] = {}
    for row in kept.slices:
        data = fold_others(unpack(row.packed), names=names, others=OTHERS)
        found |= {one.at: one for one in timed(row.start, Slice.from_data(data))}
    for sample in kept.samples:
        # As a slice of one point, so that both are folded alike.
        alone = Slice(offsets=(0,), seconds=(sample.seconds,), points=(sample.point,)).to_data()
        data = fold_others(alone, names=names, others=OTHERS)
        found |= {one.at: one for one in timed(sample.at, Slice.from_data(data))}
    return [one for at, one in sorted(found.items()) if since < at <= until]
