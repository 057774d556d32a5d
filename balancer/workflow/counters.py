"""The rows of what nodes counted: written here alone, by the process that counts on each node.

A look becomes a sample, the samples of five minutes become a slice for each service where anything happened,
and slices of a day ago become coarse ones. No part of it is done twice, whatever ends in between.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from balancer.domain.counters import (
    COARSE,
    COARSE_KEPT,
    COARSE_SPAN,
    FINE,
    FINE_KEPT,
    FINE_SPAN,
    ServicePoint,
    Slice,
    TimedPoint,
    add,
    coarsen,
    make_slice,
    slot_of,
    start_of,
    timed,
)
from balancer.kernel.counter_table import Kind, Place
from balancer.kernel.sampler import Look
from balancer.models import CounterSample, CounterSlice, CounterState, CounterTotal, Node

NODE_ITSELF = ""
"""In the place of a service's name: when the node was looked at, also where nothing happened."""
BATCH = 500
"""Rows that one transaction writes."""
COARSENED_AT_ONCE = 200
"""Services that one look makes coarse slices of: all of it at once would take seconds."""
NOTES_KEPT = 20
WAITED_FOR = timedelta(hours=1)
"""A clock that was set back by no more than this is waited for; the time is counted as one then."""
WAITS = (
    "The clock was set back. The time until it says again what it said is counted as one; nothing is plotted"
    " meanwhile."
)
SET_BACK = (
    "The clock was set back by more than an hour. Counting goes on at the time that it says now; what was"
    " kept for later times stays until those come."
)

Totals = dict[tuple[Kind, Place], int]
Series = tuple[str, str, str]
"""Service, kind and name, as a row of totals has them."""


def totals_told(node: Node) -> Totals:
    """All that the rows say was counted, by kind, service and name."""
    told: Totals = {}
    totals = CounterTotal.objects.filter(node=node)
    for service, kind, name, count in totals.values_list("service_name", "kind", "name", "count"):
        told[Kind(kind), (service, name)] = count
    samples = list(CounterSample.objects.filter(node=node))
    starts = {start_of(sample.at, span=FINE_SPAN) for sample in samples}
    rows = CounterSlice.objects.filter(node=node, step=FINE, start__in=starts)
    sliced = {(row.service_name, one.at) for row in rows for one in timed(row.start, read_slice(row))}
    for sample in samples:
        for service, point in read_sample(sample).items():
            if (service, sample.at) in sliced:
                continue  # whoever made slices of it ended in between: the totals have it already
            for kind, name, count in _counts(point):
                told[kind, (service, name)] = told.get((kind, (service, name)), 0) + count
    return told


def record_look(
    *,
    node: Node,
    look: Look,
    points: Mapping[str, ServicePoint],
    seconds: float,
    at: datetime,
    tidy: bool = True,
) -> bool:
    """Keep what happened in the last `seconds`; False where that time was counted already, since somebody
    set the clock back. Then do what is due of the rest, to `tidy` what is old as well.

    What the first look of a node finds was counted at times that nobody knows: it is in the totals alone.
    """
    state, _ = CounterState.objects.get_or_create(node=node)
    slot = slot_of(at)
    if not _is_new_time(state, slot=slot, at=at):
        return False
    is_first = state.counted_at is None
    is_back = state.counted_at is not None and at < state.counted_at
    notes = (*look.notes, *((SET_BACK,) if is_back else ()))
    state.epoch, state.counted_at, state.duration_ms = look.epoch, at, look.duration_ms
    state.notes = [*({"at": at.isoformat(), "text": text} for text in notes), *state.notes][:NOTES_KEPT]
    with transaction.atomic():
        if is_first:
            _begin_totals(node=node, at=at, points=points)
        else:
            packed = pack({name: point.to_data() for name, point in points.items()})
            whole = round(seconds, 3) if seconds > 0 else FINE
            CounterSample.objects.create(node=node, at=slot, seconds=whole, packed=packed)
        state.save()
    slice_samples(node=node, before=start_of(slot, span=FINE_SPAN))
    if tidy:
        coarsen_slices(node=node, now=at)
        forget_old(node=node, now=at)
    return True


def _is_new_time(state: CounterState, *, slot: datetime, at: datetime) -> bool:
    """Whether nothing was counted at that time yet; a clock that was set back far is believed."""
    behind = state.counted_at - at if state.counted_at is not None else timedelta(-1)
    if timedelta() <= behind <= WAITED_FOR:
        if behind > timedelta(seconds=FINE):
            record_failure(node=state.node, text=WAITS, at=at)
        return False
    return not CounterSample.objects.filter(node=state.node, at=slot).exists()


def record_failure(*, node: Node, text: str, at: datetime) -> None:
    """Nothing could be counted this time, and why."""
    state, _ = CounterState.objects.get_or_create(node=node)
    if not state.notes or state.notes[0]["text"] != text:
        state.notes = [{"at": at.isoformat(), "text": text}, *state.notes][:NOTES_KEPT]
        state.save(update_fields=["notes"])


def slice_samples(*, node: Node, before: datetime) -> None:
    """Samples of five minutes that are over become slices, and go."""
    due = list(CounterSample.objects.filter(node=node, at__lte=before))
    starts = sorted({start_of(sample.at, span=FINE_SPAN) for sample in due})
    for start in starts:
        samples = [sample for sample in due if start_of(sample.at, span=FINE_SPAN) == start]
        _slice(node=node, start=start, samples=samples)
        CounterSample.objects.filter(pk__in=[sample.pk for sample in samples]).delete()


def coarsen_slices(*, node: Node, now: datetime) -> None:
    """Six hours that ended a day ago: some services at a time."""
    fine = CounterSlice.objects.filter(node=node, step=FINE)
    oldest = fine.filter(start__lt=now - FINE_KEPT - COARSE_SPAN).order_by("start").first()
    if oldest is None:
        return
    start = start_of(oldest.start + FINE_SPAN, span=COARSE_SPAN)
    inside = fine.filter(start__gte=start, start__lt=start + COARSE_SPAN)
    names = sorted(set(inside.values_list("service_name", flat=True)))[:COARSENED_AT_ONCE]
    with transaction.atomic():
        rows = inside.filter(service_name__in=names)
        points: dict[str, list[TimedPoint]] = {}
        for row in rows:
            points.setdefault(row.service_name, []).extend(timed(row.start, read_slice(row)))
        CounterSlice.objects.bulk_create(
            [
                CounterSlice(
                    node=node,
                    service_name=name,
                    step=COARSE,
                    start=start,
                    packed=pack(make_slice(start, coarsen(found)).to_data()),
                )
                for name, found in points.items()
            ],
            batch_size=BATCH,
            ignore_conflicts=True,
        )
        rows.delete()


def forget_old(*, node: Node, now: datetime) -> None:
    """What is older than a month, some of it at a time."""
    old = CounterSlice.objects.filter(step=COARSE, start__lt=now - COARSE_KEPT - COARSE_SPAN, node=node)
    keys = list(old.values_list("pk", flat=True)[:BATCH])
    if keys:
        CounterSlice.objects.filter(pk__in=keys).delete()


def read_sample(sample: CounterSample) -> dict[str, ServicePoint]:
    return {name: ServicePoint.from_data(data) for name, data in unpack(sample.packed).items()}


def read_point(sample: CounterSample, service: str) -> ServicePoint:
    """Of one service: reading those of ten thousand takes a second."""
    data = unpack(sample.packed).get(service)
    return ServicePoint.from_data(data) if data is not None else ServicePoint()


def read_slice(row: CounterSlice) -> Slice:
    return Slice.from_data(unpack(row.packed))


def pack(data: Any) -> bytes:
    return zlib.compress(json.dumps(data, separators=(",", ":")).encode())


def unpack(packed: bytes | memoryview) -> Any:
    return json.loads(zlib.decompress(packed))


def _counts(point: ServicePoint) -> Iterable[tuple[Kind, str, int]]:
    for name, (new, *_) in point.backends.items():
        yield Kind.BACKEND, name, new
    for reason, count in point.refused.items():
        yield Kind.REFUSAL, reason, count


def _slice(*, node: Node, start: datetime, samples: list[CounterSample]) -> None:
    """One slice for each service where anything happened, and its totals with it."""
    read = [(sample, read_sample(sample)) for sample in samples]
    names = sorted({NODE_ITSELF, *(name for _, points in read for name in points)})
    for first in range(0, len(names), BATCH):
        with transaction.atomic():
            _slice_some(node=node, start=start, read=read, names=names[first : first + BATCH])


def _slice_some(
    *,
    node: Node,
    start: datetime,
    read: list[tuple[CounterSample, dict[str, ServicePoint]]],
    names: list[str],
) -> None:
    """What a slice has already was done by a process that ended in the middle. Other times of a slice that is
    there come of a clock that was wrong for a while, and join it."""
    rows = CounterSlice.objects.filter(node=node, step=FINE, start=start, service_name__in=names)
    had = {row.service_name: timed(row.start, read_slice(row)) for row in rows}
    done = {(name, one.at) for name, found in had.items() for one in found}
    points = {
        name: [
            TimedPoint(at=sample.at, seconds=sample.seconds, point=found.get(name, ServicePoint()))
            for sample, found in read
            if (name, sample.at) not in done
        ]
        for name in names
    }
    points = {name: found for name, found in points.items() if found}
    rows.filter(service_name__in=list(points)).delete()
    CounterSlice.objects.bulk_create(
        CounterSlice(
            node=node,
            service_name=name,
            step=FINE,
            start=start,
            packed=pack(make_slice(start, (*had.get(name, ()), *found)).to_data()),
        )
        for name, found in points.items()
    )
    _add_totals(node=node, at=start, points=points)


def _begin_totals(*, node: Node, at: datetime, points: Mapping[str, ServicePoint]) -> None:
    names = sorted(points)
    for first in range(0, len(names), BATCH):
        some = {n: [TimedPoint(at=at, seconds=0, point=points[n])] for n in names[first : first + BATCH]}
        _add_totals(node=node, at=at, points=some)


def _add_totals(*, node: Node, at: datetime, points: Mapping[str, list[TimedPoint]]) -> None:
    rows: dict[Series, CounterTotal] = {
        (row.service_name, row.kind, row.name): row
        for row in CounterTotal.objects.filter(node=node, service_name__in=list(points))
    }
    new: list[CounterTotal] = []
    for service, found in points.items():
        whole = add(found)
        sums = {(Kind.BACKEND, name): one[:3] for name, one in whole.backends.items()}
        sums |= {(Kind.REFUSAL, reason): (count, 0, 0) for reason, count in whole.refused.items()}
        for (kind, name), (count, packets, size) in sums.items():
            row = rows.get((service, kind, name))
            if row is None:
                row = CounterTotal(node=node, service_name=service, kind=kind, name=name, first_seen=at)
                new.append(row)
            row.count += count
            row.packets += packets
            row.bytes += size
    CounterTotal.objects.bulk_create(new, batch_size=BATCH)
    old = [row for row in rows.values() if row.pk is not None]
    CounterTotal.objects.bulk_update(old, ["count", "packets", "bytes"], batch_size=BATCH)
