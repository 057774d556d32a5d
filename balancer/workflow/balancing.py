"""A node moves weights itself, inside what was approved: least-connections and slow start (ADR 0014).

The tick's own act, without a job and without an approval: it changes nothing that anybody approved. It is
done only while the kernel is known to carry what it should, no job of the node waits or runs, and no apply
waits for its confirm. The row says first what is to be carried; where writing fails, what was before again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from functools import partial

from django.db import transaction

from balancer.domain.lifecycle import JOB_ACTIVE
from balancer.domain.moving import Reasons, advance_ramps, move_towards_balance, next_step
from balancer.domain.own_weights import (
    Memory,
    OwnWeights,
    has_own_weights,
    moves,
    own_weights,
    with_own_weights,
)
from balancer.domain.types import Document, Service
from balancer.kernel.base import Busy, Kernel, KernelError, OutcomeUnknown
from balancer.kernel.guard import Guard
from balancer.kernel.guard_files import GuardError
from balancer.models import Job, Node, NodeBalance, Revision, WeightMove
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.schedulers import promised_shares
from balancer.workflow.changes import lock_cluster
from balancer.workflow.confirming import Bench
from balancer.workflow.effective import Effective, carries, effective_of
from balancer.workflow.node_weights import memory_of_row, store
from balancer.workflow.pace import WRITE_EVERY, time_to_wait
from balancer.workflow.revisions import is_outdated
from balancer.workflow.whole_writes import Laid, write_whole

logger = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=10)
"""Between two counts of connections for least-connections, and so between two commits for it."""
TREND_WITHIN = timedelta(seconds=30)
"""A count from before that tells no trend."""
REST = 20
"""An act that took long is followed by a rest of so many times its length: a twentieth of a core at most.
While a backend rises, it ends when the next step is due, but is as long as the act: that is over soon."""
WAKE_WITHIN = timedelta(seconds=5)
"""What is due later, a usual tick finds in time."""
REST_AFTER_FAILURE = timedelta(seconds=60)
MOVES_KEPT = 1000
"""Of each node."""

Compile = Callable[[Revision, Effective], tuple[Ruleset, ...]]
Wake = Callable[[float], None]
"""Lets the node tick once more in so many seconds."""


@dataclass(slots=True)
class BalancingMemory:
    """Of a worker process, from one tick to the next."""

    rest_until: datetime | None = None
    next_step: datetime | None = None
    """When a backend that rises can have its next step; None where nobody does."""
    woken_at: datetime | None = None
    """For when a tick was asked for last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What to remember and to carry instead of what is carried now, and why."""

    revision: Revision
    before: Effective
    after: Effective
    memory: Memory
    looked: bool
    """Connections were counted for it."""
    why: Reasons

    @property
    def moves(self) -> bool:
        return self.before.weights_digest != self.after.weights_digest


def balance_node(*, node: Node, bench: Bench, memory: BalancingMemory, compiled: Compile) -> None:
    """Count, and write other weights where that is due and worth a commit. Logs what goes wrong."""
    now = bench.clock()
    if memory.rest_until is not None and now < memory.rest_until:
        return
    node = Node.objects.select_related("cluster", "carried_revision").defer("observation").get(pk=node.pk)
    try:
        plan = _plan(node=node, kernel=bench.kernel, memory=memory, now=now)
        if plan is not None and plan.moves:
            _write(node=node, plan=plan, bench=bench, compiled=compiled, now=now)
        elif plan is not None:
            _store(plan, row=NodeBalance.objects.get(node=node), now=now)
    except (KernelError, GuardError) as error:
        logger.error("%s could not move its weights: %s", node.name, error)
        memory.rest_until = bench.clock() + REST_AFTER_FAILURE
        return
    ended = bench.clock()
    memory.rest_until = ended + _rest(took=ended - now, step_at=memory.next_step, now=ended)


def look_soon(*, node: Node, memory: BalancingMemory, now: datetime) -> None:
    """After a job: if a backend rises, the next usual tick may be as far away as its slow start is long."""
    row = NodeBalance.objects.filter(node=node).first()
    if row is not None and any(found["ramps"] for found in row.services.values()):
        memory.next_step = now


def wake_for_next_step(*, memory: BalancingMemory, wake: Wake, now: datetime) -> None:
    """Ask for a tick where a step is due before the next usual one; once for each step."""
    if memory.next_step is None:
        return
    at = max(memory.next_step, memory.rest_until or memory.next_step)
    if at <= now + WAKE_WITHIN and at != memory.woken_at:
        memory.woken_at = at
        wake(max(0.0, (at - now).total_seconds()))


def _rest(*, took: timedelta, step_at: datetime | None, now: datetime) -> timedelta:
    return took * REST if step_at is None else min(took * REST, max(took, step_at - now))


def _plan(*, node: Node, kernel: Kernel, memory: BalancingMemory, now: datetime) -> _Plan | None:
    """None where nothing is due, or nothing may be written now."""
    revision = node.carried_revision
    if not node.enabled or revision is None or node.in_sync is not True or _is_at_work(node):
        return None
    if is_outdated(revision):
        return None
    before = effective_of(cluster=node.cluster, revision=revision, node=node)
    services = [service for service in before.healthy.services if has_own_weights(service)]
    row = NodeBalance.objects.filter(node=node).first() if services else None
    memory.next_step = None
    if row is None or not carries(node, before):
        return None
    known = memory_of_row(row)
    wait = time_to_wait(node, now=now)
    if wait:
        memory.next_step = _not_before(next_step(known, services), now + wait)
        return None
    found, why = advance_ramps(known, services, now=now)
    memory.next_step = _not_before(next_step(found, services), now + WRITE_EVERY if why else now)
    counted = [service for service in services if moves(service)]
    looked = bool(counted) and _is_past(row.looked_at, LOOK_EVERY, now)
    if looked:
        loads = kernel.count_loads(services=_with_neighbours(counted, before.healthy))
        trend = row.looked_at is not None and now - row.looked_at <= TREND_WITHIN
        for service in counted:
            found, more = move_towards_balance(found, service, loads.get(service.name, {}), trend=trend)
            why |= more
    if not looked and found == known:
        return None
    after = replace(before, weights=own_weights(before.healthy, found))
    return _Plan(revision=revision, before=before, after=after, memory=found, looked=looked, why=why)


def _not_before(step: datetime | None, at: datetime) -> datetime | None:
    return None if step is None else max(step, at)


def _with_neighbours(counted: list[Service], document: Document) -> list[Service]:
    """At an address that a service names, connections are not those of one that takes any address."""
    lists = {(service.protocol, service.family) for service in counted}
    return [s for s in document.services if s.enabled and (s.protocol, s.family) in lists]


def _is_at_work(node: Node) -> bool:
    return Job.objects.filter(node=node, state__in=JOB_ACTIVE).exists()


def _is_past(at: datetime | None, wait: timedelta, now: datetime) -> bool:
    """A clock that was set back holds nothing up."""
    return at is None or now - at >= wait or now < at


def _write(*, node: Node, plan: _Plan, bench: Bench, compiled: Compile, now: datetime) -> None:
    """Raises KernelError or GuardError. Where nobody can tell what was written, a convergence comes next."""
    before = Laid(document=plan.before.document, rulesets=compiled(plan.revision, plan.before))
    if not all(bench.kernel.compare(ruleset=ruleset).in_sync for ruleset in before.rulesets):
        return  # drift is for people to decide about; a commit here would mend it in passing
    kept = _claim(node=node, plan=plan, now=now)
    if kept is None:
        return
    permit = partial(_require_unarmed, bench.guard)
    try:
        after = Laid(document=plan.after.document, rulesets=compiled(plan.revision, plan.after))
        write_whole(before=before, after=after, kernel=bench.kernel, permit=permit)
    except OutcomeUnknown as error:
        Node.objects.filter(pk=node.pk).update(in_sync=None, sync_detail=str(error))
        raise
    except (KernelError, GuardError):
        kept.save()
        raise
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(carried_weights=plan.after.weights_digest)
        NodeBalance.objects.filter(node=node).update(written_at=bench.clock())
        _log(node=node, plan=plan, now=now)


def _claim(*, node: Node, plan: _Plan, now: datetime) -> NodeBalance | None:
    """Say what is to be carried, unless somebody wants something of the node now; the row as it was."""
    with transaction.atomic():
        # Whoever queues a job for the node holds this lock too.
        cluster = lock_cluster(node.cluster)
        if (
            _is_at_work(node)
            or effective_of(cluster=cluster, revision=plan.revision, node=node) != plan.before
        ):
            return None
        kept = NodeBalance.objects.get(node=node)
        row = NodeBalance.objects.get(node=node)
        row.written_at = now
        _store(plan, row=row, now=now)
    return kept


def _store(plan: _Plan, *, row: NodeBalance, now: datetime) -> None:
    if plan.looked:
        row.looked_at = now
    store(row, plan.memory)


def _require_unarmed(guard: Guard) -> None:
    if guard.pending() is not None:
        raise Busy("An apply waits for its confirm on this node; weights stay as they are until then.")


def _log(*, node: Node, plan: _Plan, now: datetime) -> None:
    names = {service for service, _ in plan.why}
    before = _shares(plan.before.healthy, plan.before.weights, names)
    after = _shares(plan.after.healthy, plan.after.weights, names)
    WeightMove.objects.bulk_create(
        WeightMove(
            node=node,
            at=now,
            service_name=service,
            backend=endpoint,
            share_before=float(before[service][endpoint]),
            share_after=float(after[service][endpoint]),
            why=sentence,
        )
        for (service, endpoint), sentence in plan.why.items()
    )
    newest = WeightMove.objects.filter(node=node).order_by("-pk").values_list("pk", flat=True)
    for oldest_kept in newest[MOVES_KEPT - 1 : MOVES_KEPT]:
        WeightMove.objects.filter(node=node, pk__lt=oldest_kept).delete()


def _shares(document: Document, weights: OwnWeights, names: set[str]) -> dict[str, Mapping[str, Fraction]]:
    services = tuple(service for service in document.services if service.name in names)
    laid = with_own_weights(replace(document, services=services), weights)
    return {service.name: promised_shares(service) for service in laid.services}
