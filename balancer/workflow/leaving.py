"""Backends that drain: at each tick a node counts who is still with them, until nobody is.

Nothing is asked of the kernel while no backend drains. A count says something only where the node carries
the draining, so before that there is none.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from balancer.domain.types import Backend, BackendState, Service
from balancer.kernel.base import Kernel, KernelError
from balancer.models import Backend as BackendRow
from balancer.models import Cluster, Node
from balancer.ruleset.sets import sets_of_backends
from balancer.workflow.clock import Clock
from balancer.workflow.effective import active_overrides, effective_of
from balancer.workflow.revisions import live_revision

REST = 10
"""A count is followed by a rest of so many times its length, beyond which every tick counts."""


@dataclass(slots=True)
class LeavingMemory:
    """Of a worker process, from one tick to the next."""

    rest_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Who is still with a backend that drains, on one node."""

    connections: int
    clients: int | None
    """Remembered ones, who may come back; None where the service remembers nobody."""
    empty_since: str | None
    """ISO time of the first count in a row that found nobody."""

    @property
    def is_empty(self) -> bool:
        return not self.connections and not self.clients


def refresh_leaving(*, node: Node, kernel: Kernel, memory: LeavingMemory, clock: Clock) -> None:
    """Count if any backend drains, and keep what was seen, or why nothing could be."""
    started = clock()
    if memory.rest_until is not None and started < memory.rest_until:
        return
    services = _services_to_count(node) if does_drain(node.cluster) else ()
    if not services:
        if node.leaving:
            _keep(node, {}, at=None)
        return
    try:
        found: dict[str, Any] = {"backends": _count(services, kernel=kernel, node=node, now=started)}
    except KernelError as error:
        found = {"error": str(error)}
    _keep(node, found, at=started)
    ended = clock()
    memory.rest_until = ended + (ended - started) * REST


def does_drain(cluster: Cluster) -> bool:
    """Whether a backend of an enabled live service drains, by what is live or by an override."""
    draining = str(BackendState.DRAINING)
    rows = BackendRow.objects.filter(service__cluster=cluster, service__enabled=True, state=draining)
    return rows.exists() or active_overrides(cluster).filter(state=draining).exists()


def draining_backends(service: Service) -> tuple[Backend, ...]:
    if not service.enabled:
        return ()
    return tuple(b for b in service.backends if b.state is BackendState.DRAINING)


def left_on(node: Node, *, service: str, endpoint: str) -> Left | None:
    """What the node counted last; None where it has not."""
    found = node.leaving.get("backends", {}).get(service, {}).get(endpoint)
    return Left(**found) if found is not None else None


def _services_to_count(node: Node) -> tuple[Service, ...]:
    live = live_revision(node.cluster)
    effective = effective_of(cluster=node.cluster, revision=live)
    if (node.carried_revision_id, node.carried_overrides) != (live.pk, effective.digest):
        return ()
    services = [service for service in effective.approved.services if service.enabled]
    drain = {service.name for service in services if draining_backends(service)}
    named = {service.name: service for service in services}
    lists = {(s.protocol, s.family) for s in services if _may_reach(s, drain, named)} if drain else set()
    # With all neighbours: at an address that one of them names, connections are not those of another.
    return tuple(s for s in services if (s.protocol, s.family) in lists)


def _may_reach(service: Service, drain: set[str], named: Mapping[str, Service]) -> bool:
    """Whether it is one of those that drain, or one of them stands in for it."""
    at: Service | None = service
    while at is not None:
        if at.name in drain:
            return True
        at = named.get(at.all_down_service or "")
    return False


def _count(
    services: tuple[Service, ...], *, kernel: Kernel, node: Node, now: datetime
) -> dict[str, dict[str, Any]]:
    connections = kernel.count_open(services=services)
    leaving = [service for service in services if draining_backends(service)]
    kept = any(sets_of_backends(service) for service in leaving)
    clients = kernel.count_clients() if kept else {}
    return {
        service.name: {
            backend.endpoint: asdict(
                _left(
                    service,
                    backend,
                    connections=connections.get(service.name, {}),
                    clients=clients,
                    before=left_on(node, service=service.name, endpoint=backend.endpoint),
                    now=now,
                )
            )
            for backend in draining_backends(service)
        }
        for service in leaving
    }


def _left(
    service: Service,
    backend: Backend,
    *,
    connections: Mapping[str, int],
    clients: Mapping[str, int],
    before: Left | None,
    now: datetime,
) -> Left:
    names = [name for name, endpoint in sets_of_backends(service).items() if endpoint == backend.endpoint]
    left = Left(
        connections=connections.get(backend.endpoint, 0),
        clients=sum(clients.get(name, 0) for name in names) if names else None,
        empty_since=before.empty_since if before is not None else None,
    )
    since = (left.empty_since or now.isoformat()) if left.is_empty else None
    return Left(connections=left.connections, clients=left.clients, empty_since=since)


def _keep(node: Node, found: dict[str, Any], *, at: datetime | None) -> None:
    Node.objects.filter(pk=node.pk).update(leaving=found, leaving_at=at)
