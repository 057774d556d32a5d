"""One step of the weights that a node moves itself: what it remembers next, and why. Pure (ADR 0014)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from balancer.domain.balancing import Load, aim_weights, fair_counts, is_worth_a_commit
from balancer.domain.limits import SLOW_START_STEPS
from balancer.domain.own_weights import Memory, Moved, whole_weights
from balancer.domain.types import Backend, Service

Reasons = dict[tuple[str, str], str]
"""(service, endpoint) -> sentence, of those for whose sake weights move."""


def advance_ramps(memory: Memory, services: Iterable[Service], *, now: datetime) -> tuple[Memory, Reasons]:
    """Backends that came back rise to the step that is due; whoever has reached the top is as any other."""
    kept, why = dict(memory.services), Reasons()
    for service in services:
        found = memory.of(service)
        ramps = {}
        for endpoint, ramp in found.ramps.items():
            step = ramp.step_at(now, over=service.slow_start) if ramp.since else ramp.step
            if step != ramp.step:
                why[service.name, endpoint] = (
                    f"{endpoint} came back and rises over {service.slow_start} seconds: step {step} of"
                    f" {SLOW_START_STEPS}"
                )
            if step < SLOW_START_STEPS:
                ramps[endpoint] = replace(ramp, step=step)
        if found.ramps:
            kept[service.name] = replace(found, ramps=ramps)
    return replace(memory, services=kept), why


def next_step(memory: Memory, services: Iterable[Service]) -> datetime | None:
    """When the first of the backends that rise has its next step; None where nobody rises."""
    due = [
        ramp.next_at(over=service.slow_start)
        for service in services
        for ramp in memory.of(service).ramps.values()
        if ramp.since
    ]
    return min(due, default=None)


def move_towards_balance(
    memory: Memory, service: Service, counts: Mapping[str, int], *, trend: bool
) -> tuple[Memory, Reasons]:
    """After a look at the connections of each backend. `trend`: the look before was not long ago.

    A backend that rises is left out: it has few connections on purpose.
    """
    found = memory.of(service)
    weights = whole_weights(service.usable_backends, found.moved)
    steady = [
        (b, _load(b, weight, found.moved.get(b.endpoint), counts, trend=trend))
        for b, weight in zip(service.usable_backends, weights, strict=True)
        if b.endpoint not in found.ramps
    ]
    if len(steady) < 2:
        return memory, {}
    loads = [load for _, load in steady]
    aims, fair = aim_weights(loads), fair_counts(loads)
    notable = {
        b.endpoint
        for (b, load), aim in zip(steady, aims, strict=True)
        if is_worth_a_commit(declared=load.declared, weight=load.weight, aim=aim)
    }
    moved = dict(found.moved)
    for (backend, load), aim in zip(steady, aims, strict=True):
        weight = aim if notable else load.weight
        moved[backend.endpoint] = Moved(declared=load.declared, weight=weight, aim=aim, count=load.count)
    total = sum(load.count for load in loads)
    why = {
        (service.name, b.endpoint): (
            f"{b.endpoint} has {load.count} of {total} connections, its weight says {due:.0f}"
        )
        for (b, load), due in zip(steady, fair, strict=True)
        if b.endpoint in notable
    }
    services = {**memory.services, service.name: replace(found, moved=moved)}
    return replace(memory, services=services), why


def _load(
    backend: Backend, weight: int, moved: Moved | None, counts: Mapping[str, int], *, trend: bool
) -> Load:
    aim = weight if moved is None else round(moved.aim * backend.weight / moved.declared)
    return Load(
        declared=backend.weight,
        weight=weight,
        aim=aim,
        count=counts.get(backend.endpoint, 0),
        before=moved.count if moved is not None and trend else None,
    )
