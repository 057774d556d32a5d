"""What a node remembers of the weights that it moves itself, and what it carries because of that (ADR 0014).

Nothing of it is in a document, a revision or a digest that is approved: it is laid over the document, after
the overrides, on the way to the kernel of this one node.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from math import gcd
from typing import Any

from balancer.domain.balancing import WHOLE, declared_weights, fit_weights, ramp_step
from balancer.domain.codec import digest_text
from balancer.domain.limits import SLOW_START_STEPS, SLOW_STARTERS
from balancer.domain.types import Backend, Document, Scheduler, Service

OwnWeights = Mapping[str, Mapping[str, int]]
"""Service -> endpoint -> weight, of the services whose shares differ from what is declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Where least-connections has brought one backend; on the scale of `balancing.WHOLE`."""

    declared: int
    """The declared weight that this belongs to."""
    weight: int
    aim: int
    count: int | None = None
    """Connections at the last look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A backend that came back and rises to its whole weight."""

    since: str
    """ISO time."""
    step: int = 1
    """Eighths of its weight that are in force."""

    def step_at(self, now: datetime, *, over: int) -> int:
        """Never back, whatever the clock does."""
        seconds = (now - datetime.fromisoformat(self.since)).total_seconds()
        return max(self.step, ramp_step(seconds=seconds, over=over))

    def next_at(self, *, over: int) -> datetime:
        """When the step after this one is due."""
        return datetime.fromisoformat(self.since) + timedelta(seconds=over * self.step / SLOW_START_STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """Of one service on one node."""

    moved: Mapping[str, Moved] = field(default_factory=dict)
    ramps: Mapping[str, Ramp] = field(default_factory=dict)
    """Both by endpoint."""

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Remembered":
        return cls(
            moved={endpoint: Moved(**found) for endpoint, found in data["moved"].items()},
            ramps={endpoint: Ramp(**found) for endpoint, found in data["ramps"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one node."""

    taking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Service -> endpoints that took new connections in what the node carried last."""
    services: Mapping[str, Remembered] = field(default_factory=dict)

    def of(self, service: Service) -> Remembered:
        """What is remembered of a service and still means something, new ramps included."""
        found = self.services.get(service.name, Remembered())
        endpoints = {backend.endpoint for backend in service.usable_backends}
        moved = {e: m for e, m in found.moved.items() if e in endpoints} if moves(service) else {}
        ramps = {e: r for e, r in found.ramps.items() if e in endpoints} if service.slow_start else {}
        return Remembered(moved=moved, ramps=ramps | self._new_ramps(service, endpoints))

    def _new_ramps(self, service: Service, endpoints: set[str]) -> dict[str, Ramp]:
        """Whoever takes connections now and did not before; unless nobody did, as on a node that is new."""
        before = set(self.taking.get(service.name, ()))
        if not service.slow_start or not endpoints & before:
            return {}
        return {endpoint: Ramp(since="") for endpoint in sorted(endpoints - before)}


def moves(service: Service) -> bool:
    """Whether least-connections has anything to move."""
    several = len(service.usable_backends) > 1
    return service.enabled and several and service.scheduler is Scheduler.LEAST_CONNECTIONS


def has_own_weights(service: Service) -> bool:
    """Whether a node may ever carry other weights of the service than the document says."""
    slow = service.slow_start > 0 and service.scheduler in SLOW_STARTERS
    return service.enabled and (slow or service.scheduler is Scheduler.LEAST_CONNECTIONS)


def own_weights(document: Document, memory: Memory) -> OwnWeights:
    """What the node lays over a document that holds the overrides already."""
    found = {s.name: service_weights(s, memory.of(s)) for s in document.services if has_own_weights(s)}
    return {name: weights for name, weights in found.items() if weights}


def service_weights(service: Service, found: Remembered) -> dict[str, int]:
    """Endpoint -> weight of the usable backends; empty where the shares are as declared."""
    usable = service.usable_backends
    declared = [backend.weight for backend in usable]
    if len(usable) < 2:
        return {}
    weights = [
        weight * (found.ramps[b.endpoint].step if b.endpoint in found.ramps else SLOW_START_STEPS)
        for b, weight in zip(usable, whole_weights(usable, found.moved), strict=True)
    ]
    if all(weight * declared[0] == weights[0] * own for weight, own in zip(weights, declared, strict=True)):
        return {}
    divisor = reduce(gcd, weights)
    return {b.endpoint: weight // divisor for b, weight in zip(usable, weights, strict=True)}


def whole_weights(backends: Iterable[Backend], moved: Mapping[str, Moved]) -> tuple[int, ...]:
    """Where least-connections stands, without ramps; others keep their proportions if one comes or goes."""
    backends = tuple(backends)
    declared = [backend.weight for backend in backends]
    if not moved:
        return declared_weights(declared)
    wanted = [
        backend.weight * WHOLE
        if (found := moved.get(backend.endpoint)) is None
        else found.weight * backend.weight / found.declared
        for backend in backends
    ]
    return fit_weights(wanted, declared)


def with_own_weights(document: Document, weights: OwnWeights) -> Document:
    """For the compiler alone: these weights are beyond the limits of a document that people write."""
    if not weights:
        return document
    services = (_laid_over(s, weights[s.name]) if s.name in weights else s for s in document.services)
    return replace(document, services=tuple(services))


def digest_own_weights(weights: OwnWeights) -> str:
    """Empty where there are none."""
    return digest_text(json.dumps(weights, sort_keys=True)) if weights else ""


def carried(document: Document, memory: Memory, *, now: datetime) -> Memory:
    """What to remember once the node carries the document (with the overrides): new ramps begin now."""
    services = {}
    for service in document.services:
        found = memory.of(service) if has_own_weights(service) else Remembered()
        ramps = {e: r if r.since else replace(r, since=now.isoformat()) for e, r in found.ramps.items()}
        if found.moved or ramps:
            services[service.name] = Remembered(moved=found.moved, ramps=ramps)
    taking = {s.name: tuple(b.endpoint for b in s.usable_backends) for s in document.services if s.enabled}
    return Memory(taking=taking, services=services)


def _laid_over(service: Service, weights: Mapping[str, int]) -> Service:
    backends = (replace(b, weight=weights.get(b.endpoint, b.weight)) for b in service.backends)
    return replace(service, backends=tuple(backends))
