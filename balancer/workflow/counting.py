"""What the process that counts on a node does every ten seconds."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from balancer.domain.counters import SHARE_UNITS, BackendPoint, ServicePoint
from balancer.domain.types import Document, Service
from balancer.kernel.base import Busy, KernelError
from balancer.kernel.counter_table import Kind
from balancer.kernel.flow_counts import Carried
from balancer.kernel.sampler import Carrying, Look
from balancer.models import CounterState, Node
from balancer.ruleset.reasons import reasons_of
from balancer.ruleset.schedulers import promised_shares
from balancer.workflow.clock import Clock
from balancer.workflow.counters import Totals, record_failure, record_look, totals_told
from balancer.workflow.counting_memory import CountingMemory, Shares, Taken
from balancer.workflow.effective import effective_of
from balancer.workflow.errors import Refused
from balancer.workflow.revisions import live_revision, node_rulesets

TakeLook = Callable[..., Look]
"""`Sampler.look`."""
logger = logging.getLogger(__name__)


def count_node(
    *,
    node_name: str,
    look: TakeLook,
    memory: CountingMemory,
    clock: Clock,
    steady: Callable[[], float] = time.monotonic,
) -> float:
    """Take one look and keep it; the seconds of a core that the look took.

    What cannot be read is kept as a note. `clock` says when it was, `steady`, which nobody sets, how long.
    """
    nodes = Node.objects.select_related("cluster", "carried_revision").defer("observation", "clients")
    node = nodes.filter(name=node_name).first()
    if node is None:
        logger.warning("There is no node %s in the console; add it there.", node_name)
        return 0.0
    state = CounterState.objects.filter(node=node).first()
    memory.settle(state.counted_at if state is not None else None)
    if memory.told is None:
        memory.told = totals_told(node)
    started, at = _used(), clock()
    try:
        carrying = _carrying(node, memory=memory)
        started, at, now = _used(), clock(), steady()
        found = look(carrying, epoch=state.epoch if state is not None else "", told=memory.told)
    except Busy:
        return 0.0  # an apply takes its time; the next look covers this one's
    except (KernelError, Refused) as error:
        record_failure(node=node, text=str(error), at=at)
        return _used() - started
    took = _used() - started
    _keep(node=node, state=state, look=found, services=carrying.services, memory=memory, at=at, steady=now)
    return took


def _used() -> float:
    """Seconds of a core, by this process and the tools that it ran and that have ended."""
    return sum(os.times()[:4])


def _keep(
    *,
    node: Node,
    state: CounterState | None,
    look: Look,
    services: Iterable[Service],
    memory: CountingMemory,
    at: datetime,
    steady: float,
) -> None:
    assert memory.told is not None
    look = memory.whole(look)
    now: Totals = {(Kind.BACKEND, place): count for place, count in look.connections.items()}
    now |= {(Kind.REFUSAL, place): count for place, count in look.refused.items()}
    points = find_points(look, now=now, told=memory.told, services=services, shares=memory.shares)
    counted_at = state.counted_at if state is not None else None
    seconds = memory.seconds_since(counted_at, at=at, steady=steady)
    memory.last = Taken(at=at, steady=steady, totals=now, carried=look.carried)
    sure = memory.believes(counted_at, at=at, steady=steady)
    record_look(node=node, look=look, points=points, seconds=seconds, at=at, tidy=sure)


def _carrying(node: Node, *, memory: CountingMemory) -> Carrying:
    """What the node carries, with the overrides in force; where nobody knows, what it should carry."""
    revision = node.carried_revision or live_revision(node.cluster)
    effective = effective_of(cluster=node.cluster, revision=revision)
    key = revision.pk, effective.digest
    if memory.carrying is None or memory.carrying[0] != key:
        memory.carrying = key, make_carrying(effective.approved)
    return memory.carrying[1]


def make_carrying(document: Document) -> Carrying:
    services = tuple(service for service in document.services if service.enabled)
    names = [service.name for service in services]
    refusing = {
        family: {
            (str(table), chain, index): (service, str(reason))
            for (table, chain, index), (service, reason) in reasons_of(ruleset, names).items()
        }
        for family, ruleset in node_rulesets(document).items()
    }
    return Carrying(services=services, refusing=refusing)


def find_points(
    look: Look, *, now: Totals, told: Totals, services: Iterable[Service], shares: Shares
) -> dict[str, ServicePoint]:
    """Service -> what happened there since the look before; nothing of services where nothing did."""
    new: dict[str, dict[str, int]] = {}
    refused: dict[str, dict[str, int]] = {}
    for (kind, (service, name)), count in now.items():
        since = count - told.get((kind, (service, name)), 0)
        if since > 0:
            (new if kind is Kind.BACKEND else refused).setdefault(service, {})[name] = since
    carried: dict[str, dict[str, Carried]] = {}
    for (service, name), found in look.carried.items():
        carried.setdefault(service, {})[name] = found
    by_name = {service.name: service for service in services}
    points: dict[str, ServicePoint] = {}
    for name in sorted({*new, *refused, *carried}):
        declared = _shares_of(by_name.get(name), shares=shares)
        backends = {
            endpoint: _point(
                new.get(name, {}).get(endpoint, 0),
                carried.get(name, {}).get(endpoint, Carried()),
                declared.get(endpoint, 0),
            )
            for endpoint in {*declared, *new.get(name, {}), *carried.get(name, {})}
        }
        points[name] = ServicePoint(backends=backends, refused=refused.get(name, {}))
    return points


def _point(new: int, carried: Carried, share: int) -> BackendPoint:
    return new, carried.packets, carried.bytes, carried.current, share


def _shares_of(service: Service | None, *, shares: Shares) -> Mapping[str, int]:
    """Declared shares, those of backends that get no connections with 0."""
    if service is None or not service.enabled:
        return {}
    known = shares.get(service.name)
    if known is None or known[0] is not service:
        found = {backend.endpoint: 0 for backend in service.backends}
        found |= {name: round(share * SHARE_UNITS) for name, share in promised_shares(service).items()}
        shares[service.name] = known = service, found
    return known[1]
