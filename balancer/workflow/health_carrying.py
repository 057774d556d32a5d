"""The worker carries what the node's health checks found into the kernel: without a job, without an approval
(ADR 0017).

Done only where the kernel is known to carry what it should, and at most once a second: what comes meanwhile
is carried together. The kernel first, then the rows; where the worker dies in between, the kernel is found to
carry what is wanted, and only the rows are written.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from django.db import transaction

from balancer.domain.health_overlay import HealthOverlay
from balancer.domain.lifecycle import JobState
from balancer.kernel.base import Busy, Kernel, KernelError, OutcomeUnknown, Permit, Receipt
from balancer.kernel.guard import Guard
from balancer.kernel.guard_files import GuardError
from balancer.models import Job, Node, NodeHealth, Revision
from balancer.ruleset.ir import Ruleset
from balancer.workflow.clock import Clock
from balancer.workflow.effective import Effective, carries, effective_of, effective_of_job, renew_health
from balancer.workflow.health_records import newest_told, note_carried, remember_health
from balancer.workflow.node_weights import remember_carried
from balancer.workflow.pace import time_to_wait
from balancer.workflow.revisions import is_outdated, node_rulesets
from balancer.workflow.whole_writes import Laid, write_whole

logger = logging.getLogger(__name__)

_AT_WORK = (JobState.RUNNING, JobState.UNCONFIRMED)

Compile = Callable[[Revision, Effective], tuple[Ruleset, ...]]
Written = tuple[tuple[Ruleset, Receipt], ...]


class Tools(Protocol):
    """What a worker works with; `confirming.Bench` is one."""

    @property
    def kernel(self) -> Kernel: ...
    @property
    def guard(self) -> Guard: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def pause(self) -> Callable[[float], None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What to carry instead of what is carried now."""

    revision: Revision
    before: Effective
    after: Effective
    told: int
    """`newest_told`, from before it was decided."""

    @property
    def changes(self) -> bool:
        return self.before.health_digest != self.after.health_digest


class Differs(Exception):
    """The kernel carries something else: a commit would mend that in passing."""


def carry_health(*, node: Node, tools: Tools, compiled: Compile) -> bool:
    """Whether the kernel was written. Logs what goes wrong, and leaves it to the next tick.

    Raises Differs where somebody else has changed the kernel: that has to be put right first.
    """
    plan = _plan(node=node, now=tools.clock())
    if plan is not None and plan.changes:
        _keep_distance(node=node, tools=tools)
        plan = _plan(node=node, now=tools.clock())  # with what came meanwhile
    if plan is None:
        return False
    if not plan.changes:
        note_carried(node, until=plan.told, now=tools.clock())  # what went and came back in between, too
        return False
    permit = partial(_require_unarmed, tools.guard)
    try:
        written = _write(plan, kernel=tools.kernel, permit=permit, compiled=compiled)
    except OutcomeUnknown as error:
        Node.objects.filter(pk=node.pk).update(in_sync=None, sync_detail=str(error))
        logger.error("%s could not carry what its health checks found: %s", node.name, error)
        return False
    except (KernelError, GuardError) as error:
        logger.warning("%s does not carry yet what its health checks found: %s", node.name, error)
        return False
    now = tools.clock()
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(
            carried_health=plan.after.health_digest, carried_weights=plan.after.weights_digest
        )
        remember_carried(node=node, document=plan.after.healthy, now=now)
        remember_health(node=node, effective=plan.after, now=now)
        note_carried(node, until=plan.told, now=now)
        _note_written(node, written, now=now)
    return True


def carry_health_of_job(*, job: Job, token: str, tools: Tools) -> None:
    """The same while a job's rules wait for their confirm: laid over these, and told in the job's receipt.

    The guard goes on waiting; where it goes back, it puts back what was approved, and the next tick lays
    health over that.
    """
    plan = _plan_of_job(job, now=tools.clock())
    if plan.changes:
        _keep_distance(node=job.node, tools=tools)
        plan = _plan_of_job(job, now=tools.clock())
    if not plan.changes:
        note_carried(job.node, until=plan.told, now=tools.clock())
        return
    permit = partial(tools.guard.require_armed, token=token)
    try:
        written = _write(plan, kernel=tools.kernel, permit=permit, compiled=_compile)
    except (KernelError, GuardError, Differs) as error:
        logger.error("Job %s waits for its confirm, and health could not be carried: %s", job.pk, error)
        return
    for one in written:
        _tell(job, one, plan.after)
    with transaction.atomic():
        Job.objects.filter(pk=job.pk, claim=job.claim, state__in=_AT_WORK).update(receipt=job.receipt)
        note_carried(job.node, until=plan.told, now=tools.clock())
        _note_written(job.node, written, now=tools.clock())


def _plan(*, node: Node, now: datetime) -> _Plan | None:
    """None where nothing may be written now."""
    node = (
        Node.objects.select_related("cluster", "carried_revision")
        .defer("observation", "clients")
        .get(pk=node.pk)
    )
    revision = node.carried_revision
    if not node.enabled or revision is None or Job.objects.filter(node=node, state__in=_AT_WORK).exists():
        return None
    if is_outdated(revision):
        return None
    told = newest_told(node)
    kept = effective_of(cluster=node.cluster, revision=revision, node=node)
    after = renew_health(kept, node=node, now=now)
    before = _as_carried(node, kept)
    return None if before is None else _Plan(revision=revision, before=before, after=after, told=told)


def _plan_of_job(job: Job, *, now: datetime) -> _Plan:
    told, before = newest_told(job.node), effective_of_job(job)
    after = renew_health(before, node=job.node, now=now)
    return _Plan(revision=job.revision, before=before, after=after, told=told)


def _as_carried(node: Node, kept: Effective) -> Effective | None:
    """What the kernel should carry by the node's own digests; None where a convergence has to come first.

    A guard that went back, and a drill, leave a node with nothing of its own laid over.
    """
    bare = replace(kept, health=HealthOverlay(), weights={})
    return next((found for found in (kept, bare) if carries(node, found)), None)


def _keep_distance(*, node: Node, tools: Tools) -> None:
    left = time_to_wait(node, now=tools.clock())
    if left > timedelta():
        tools.pause(left.total_seconds())


def _write(plan: _Plan, *, kernel: Kernel, permit: Permit, compiled: Compile) -> Written:
    """Raises KernelError, GuardError or Differs."""
    after = Laid(document=plan.after.document, rulesets=compiled(plan.revision, plan.after))
    before = Laid(document=plan.before.document, rulesets=compiled(plan.revision, plan.before))
    # Health changes no family; each by itself, as a worker may have died between two of them.
    families = zip(before.rulesets, after.rulesets, strict=True)
    if not all(_carries(kernel, kept) or _carries(kernel, wanted) for kept, wanted in families):
        raise Differs("its kernel differs from what it should carry, which is seen to first.")
    return write_whole(before=before, after=after, kernel=kernel, permit=permit)


def _carries(kernel: Kernel, ruleset: Ruleset) -> bool:
    return kernel.compare(ruleset=ruleset).in_sync


def _compile(revision: Revision, effective: Effective) -> tuple[Ruleset, ...]:
    return tuple(node_rulesets(effective.document).values())


def _tell(job: Job, written: tuple[Ruleset, Receipt], after: Effective) -> None:
    """The job's receipt says what the kernel holds now; what the apply did to get there stays in it."""
    ruleset, receipt = written
    assert job.receipt is not None
    kept = job.receipt.get(str(ruleset.family))
    if kept is None and not receipt.changed:
        return
    kept = asdict(receipt) if kept is None else kept
    bare = {key: value for key, value in kept.items() if key not in {"health", "weights"}}
    job.receipt[str(ruleset.family)] = bare | {"ruleset_digest": receipt.ruleset_digest} | after.to_data()


def _note_written(node: Node, written: Written, *, now: datetime) -> None:
    """Where all of them are down and still used, say, nothing is written: then nobody need wait either."""
    if any(receipt.changed for _, receipt in written):
        NodeHealth.objects.update_or_create(node=node, defaults={"written_at": now})


def _require_unarmed(guard: Guard) -> None:
    if guard.pending() is not None:
        raise Busy("An apply waits for its confirm on this node; it carries health by itself.")
