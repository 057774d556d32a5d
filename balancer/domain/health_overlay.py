"""What health checks lay over a document on its way to the kernel of one node (ADR 0017).

After the overrides of operators, which it never undoes, and before the node's own weights. Nothing of it is
in a document, a revision or a digest that is approved.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from balancer.domain.codec import digest_text
from balancer.domain.types import AllDown, Backend, BackendState, Document, HealthKind, Scheduler, Service

CLEARLY = 10
"""Percentage points above `healthy_min` at which a service is no longer in panic."""

Standings = Mapping[tuple[str, str], bool | None]
"""(service, endpoint) -> up; None, as one that is not in it: nobody can tell now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthOverlay:
    """Of one node."""

    down: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Service -> endpoints that take nothing new; sorted, no service without one."""
    panic: tuple[str, ...] = ()
    """Services with fewer healthy backends than they need; sorted."""

    @property
    def digest(self) -> str:
        """Empty where nothing is laid over. `Node.carried_health` is compared with it."""
        data = self.to_data()
        return digest_text(json.dumps(data, sort_keys=True)) if data else ""

    def to_data(self) -> dict[str, Any]:
        """JSON data; empty where nothing is laid over."""
        data: dict[str, Any] = {"down": {name: list(found) for name, found in self.down.items()}}
        data |= {"panic": list(self.panic)}
        return {key: value for key, value in data.items() if value}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "HealthOverlay":
        down = {name: tuple(found) for name, found in data.get("down", {}).items()}
        return cls(down=down, panic=tuple(data.get("panic", ())))


def is_checked(service: Service) -> bool:
    """Whether health checks have a say in where its connections go."""
    return service.enabled and service.health.kind is not HealthKind.NONE


def decide_overlay(document: Document, before: HealthOverlay, standings: Standings) -> HealthOverlay:
    """What to lay over a document that holds the overrides. What nobody can tell stays as it was."""
    services = [service for service in document.services if is_checked(service)]
    down = {service.name: _down(service, before, standings) for service in services}
    return HealthOverlay(
        down={name: endpoints for name, endpoints in down.items() if endpoints},
        panic=tuple(s.name for s in services if _is_in_panic(s, down[s.name], s.name in before.panic)),
    )


def with_health(document: Document, overlay: HealthOverlay) -> Document:
    """The document as the node carries it: valid where the document is, for fewer backends of one weight each
    make no longer rounds and no smaller shares."""
    if not overlay.down and not overlay.panic:
        return document
    services = (_laid_over(s, overlay) if is_checked(s) else s for s in document.services)
    return replace(document, services=tuple(services))


def healthy_share(service: Service, down: tuple[str, ...]) -> tuple[int, int]:
    """How many of the backends that people have enabled are not down, and how many these are."""
    enabled = _enabled(service)
    return sum(backend.endpoint not in down for backend in enabled), len(enabled)


def serving_priority(service: Service, down: tuple[str, ...]) -> int | None:
    """Of `failover` the first priority with a healthy backend: where too few are healthy, `keep` serves all
    of these. The ones before it are all dead, and would get everything. None: priorities do not matter."""
    if service.scheduler is not Scheduler.FAILOVER:
        return None
    return min((b.priority for b in _enabled(service) if b.endpoint not in down), default=None)


def _down(service: Service, before: HealthOverlay, standings: Standings) -> tuple[str, ...]:
    were = before.down.get(service.name, ())

    def is_down(backend: Backend) -> bool:
        up = standings.get((service.name, backend.endpoint))
        return backend.endpoint in were if up is None else not up

    return tuple(sorted(backend.endpoint for backend in service.backends if is_down(backend)))


def _is_in_panic(service: Service, down: tuple[str, ...], was: bool) -> bool:
    """Below the least share at once; out of it when clearly above, or when nobody is down."""
    healthy, of = healthy_share(service, down)
    least = min(service.healthy_min + (CLEARLY if was else 0), 100)
    return service.healthy_min > 0 and healthy * 100 < least * of


def _laid_over(service: Service, overlay: HealthOverlay) -> Service:
    down, panic = overlay.down.get(service.name, ()), service.name in overlay.panic
    healthy, of = healthy_share(service, down)
    is_short, serving = of > 0 and (panic or not healthy), serving_priority(service, down)

    def is_up(backend: Backend) -> bool:
        if not is_short or backend.state is not BackendState.ENABLED:
            return backend.endpoint not in down
        if service.all_down is not AllDown.KEEP:
            return False
        return backend.endpoint not in down or serving in {None, backend.priority}

    return replace(service, backends=tuple(replace(b, up=is_up(b)) for b in service.backends))


def _enabled(service: Service) -> tuple[Backend, ...]:
    return tuple(b for b in service.backends if b.state is BackendState.ENABLED)
