"""A node looks after itself: it finds its jobs, goes back to what it should carry, and says how it is.

Runs when the worker starts and at every tick. A tick carries nothing; all that is decided here comes from
rows and from the kernel.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, JobState
from balancer.kernel.base import Kernel, KernelError
from balancer.kernel.guard import Guard
from balancer.kernel.guard_files import GuardError
from balancer.models import Deployment, Job, Node
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.balancing import Wake, balance_node, look_soon, wake_for_next_step
from balancer.workflow.changes import lock_cluster
from balancer.workflow.clock import Clock
from balancer.workflow.confirming import Bench, Checks, confirmed_state, look_after_unconfirmed, no_checks
from balancer.workflow.drift import link_job
from balancer.workflow.drills import drop_untimely_drill, start_due_drill
from balancer.workflow.effective import effective_of
from balancer.workflow.endings import skip_absent_node
from balancer.workflow.guard_news import hand_over, read_guard_news
from balancer.workflow.health_carrying import Differs, carry_health
from balancer.workflow.jobs import recover_jobs, run_job
from balancer.workflow.leaving import refresh_leaving
from balancer.workflow.messages import record_refused_job
from balancer.workflow.node_looks import NodeMemory, compiled_for, watch, why_converge
from balancer.workflow.observations import refresh_observation
from balancer.workflow.persistence import carry_out_clearings, refresh_clients
from balancer.workflow.queueing import queue_job
from balancer.workflow.rehearsing import Rehearse, recover_rehearsals, rehearse_next
from balancer.workflow.revisions import is_outdated, live_revision
from balancer.workflow.rollout import turn_since
from balancer.workflow.windows import run_due_windows

logger = logging.getLogger(__name__)

FACTS_EVERY = timedelta(seconds=60)
MESSAGE_GRACE = timedelta(seconds=3)
"""A job that was just queued has its message still on the way; the message comes first."""


def reconcile_node(
    *,
    node_name: str,
    kernel: Kernel,
    guard: Guard,
    memory: NodeMemory,
    identity: str,
    rehearse: Rehearse | None = None,
    confirm: Checks = no_checks,
    clock: Clock = timezone.now,
    pause: Callable[[float], None] = time.sleep,
    wake: Wake = lambda seconds: None,
) -> None:
    """Record what the node's guard did, refresh what is known of the node, carry what its health checks
    found, forget the clients that it was asked to forget, then do the first of these:

    leave a living worker of this node alone; look after a job that waits for its confirm; run a queued job
    whose turn has come; wait for a running deployment, or until the node takes part again; bring the kernel
    back to the live revision (where the node carries another one, or where the kernel differs, unless the
    policy of the cluster asks people first). With no job at hand, make
    a rollback drill that is due, or a rehearsal that waits, move weights that the node moves itself, and look
    at what the node does. `wake` is asked for another tick where a backend that rises cannot wait for the
    next usual one.

    Every worker also looks after what is due in its cluster and has no process of its own: a roll-out that
    waits for a node that is down, and windows.
    """
    node = _greet(node_name=node_name, memory=memory, identity=identity, clock=clock)
    if node is None:
        return
    bench = Bench(kernel=kernel, guard=guard, confirm=confirm, clock=clock, pause=pause)
    read_guard_news(node=node, guard=guard, identity=identity, clock=clock)
    _refresh_facts(node=node, kernel=kernel, memory=memory, now=clock())
    if not recover_jobs(node=node, identity=identity, clock=clock):
        return
    if not recover_rehearsals(node=node, identity=identity, clock=clock):
        return
    carry_own_health(node=node, bench=bench, memory=memory)
    _look_after_clients(node=node, kernel=kernel, memory=memory, clock=clock)
    skip_absent_node(cluster=node.cluster, clock=clock)
    run_due_windows(cluster=node.cluster, clock=clock)
    if _look_after_unconfirmed(node=node, bench=bench):
        carry_own_health(node=node, bench=bench, memory=memory)  # over what the guard has put back
        return
    drop_untimely_drill(node=node, clock=clock)
    if _look_after_queued(node=node, bench=bench, memory=memory, identity=identity):
        wake_for_next_step(memory=memory.balancing, wake=wake, now=clock())
        return
    if node.enabled and not _is_deploying(node):
        _converge_or_rest(node=node, bench=bench, memory=memory, rehearse=rehearse, identity=identity)
    elif node.enabled:
        watch(node=node, kernel=kernel, memory=memory, clock=clock)
    balance_node(
        node=node,
        bench=bench,
        memory=memory.balancing,
        compiled=lambda revision, effective: compiled_for(revision, effective, memory=memory),
    )
    wake_for_next_step(memory=memory.balancing, wake=wake, now=clock())
    refresh_observation(node=node, kernel=kernel, memory=memory.observing, clock=clock)


def carry_own_health(*, node: Node, bench: Bench, memory: NodeMemory) -> None:
    """What the node's health checks found since the last time, into its kernel."""
    try:
        written = carry_health(
            node=node,
            tools=bench,
            compiled=lambda revision, effective: compiled_for(revision, effective, memory=memory),
        )
    except Differs as error:
        logger.error("%s could not carry what its health checks found: %s", node.name, error)
        memory.compare_due, memory.health_waits = None, True  # this tick looks, and puts ours back if it may
        return
    memory.health_waits = False
    if written:
        node.refresh_from_db(fields=["carried_health", "carried_weights"])


def _converge_or_rest(
    *, node: Node, bench: Bench, memory: NodeMemory, rehearse: Rehearse | None, identity: str
) -> None:
    cause = why_converge(node=node, kernel=bench.kernel, memory=memory, clock=bench.clock)
    if cause:
        _converge(node=node, cause=cause, bench=bench, memory=memory, identity=identity)
    else:
        _hand_over(node=node, guard=bench.guard, memory=memory)
        _use_leisure(node=node, bench=bench, memory=memory, rehearse=rehearse, identity=identity)


def _use_leisure(
    *, node: Node, bench: Bench, memory: NodeMemory, rehearse: Rehearse | None, identity: str
) -> None:
    """A drill that is due, else a rehearsal that waits."""
    drill = start_due_drill(node=node, clock=bench.clock) if memory.settled else None
    if drill is not None:
        _run(job=drill, bench=bench, memory=memory, identity=identity)
    elif rehearse is not None:
        before = bench.clock() - MESSAGE_GRACE
        rehearse_next(
            node=node,
            rehearse=rehearse,
            identity=identity,
            queued_before=before,
            meanwhile=lambda: carry_own_health(node=node, bench=bench, memory=memory),
            clock=bench.clock,
        )


def _greet(*, node_name: str, memory: NodeMemory, identity: str, clock: Clock) -> Node | None:
    found = Node.objects.select_related("cluster", "carried_revision").defer("observation", "clients")
    node = found.filter(name=node_name).first()
    if node is not None:
        Node.objects.filter(pk=node.pk).update(last_seen=clock())
    if not memory.announced:
        _announce(node, node_name=node_name, identity=identity)
    memory.announced = True
    return node


def _announce(node: Node | None, *, node_name: str, identity: str) -> None:
    with audit.writing():
        if node is None:
            message = "There is no node of this name in the console; add it there."
            record_refused_job(node=node_name, code="unknown-node", message=message, job=None)
        else:
            audit.record(actor=None, action=Action.WORKER_STARTED, target=node, facts={"identity": identity})


def _refresh_facts(*, node: Node, kernel: Kernel, memory: NodeMemory, now: datetime) -> None:
    if memory.facts_due is not None and now < memory.facts_due:
        return
    memory.facts_due = now + FACTS_EVERY
    try:
        facts = dict(kernel.facts().to_data())
    except KernelError as error:
        facts = {"error": str(error)}
    Node.objects.filter(pk=node.pk).update(facts=facts, facts_at=now)


def _look_after_unconfirmed(*, node: Node, bench: Bench) -> bool:
    """Whether there is a job that waits for its confirm; nothing else is done meanwhile."""
    found = Job.objects.filter(node=node, state=JobState.UNCONFIRMED)
    job = found.select_related(
        "node__cluster", "revision__cluster", "deployment__change", "confirmed_by"
    ).first()
    if job is None:
        return False
    try:
        look_after_unconfirmed(job=job, bench=bench)
    except GuardError as error:
        logger.error("Job %s waits for its confirm, and the guard cannot be asked: %s", job.pk, error)
    return True


def _look_after_clients(*, node: Node, kernel: Kernel, memory: NodeMemory, clock: Clock) -> None:
    """Forget those whom people want forgotten; count the others, and who is still with what drains."""
    carry_out_clearings(node=node, kernel=kernel, memory=memory.clients, clock=clock)
    refresh_clients(node=node, kernel=kernel, memory=memory.clients, clock=clock)
    refresh_leaving(node=node, kernel=kernel, memory=memory.leaving, clock=clock)


def _look_after_queued(*, node: Node, bench: Bench, memory: NodeMemory, identity: str) -> bool:
    """Whether there is a job whose turn has come; it is run unless its message is still on the way."""
    waiting = Job.objects.filter(node=node, state=JobState.QUEUED).select_related("node").first()
    since = turn_since(waiting) if waiting is not None else None
    if waiting is None or since is None:
        return False
    if waiting.attempts or since <= bench.clock() - MESSAGE_GRACE:
        _run(job=waiting, bench=bench, memory=memory, identity=identity)
    return True


def _hand_over(*, node: Node, guard: Guard, memory: NodeMemory) -> None:
    """A guard that knows nothing yet is told what was seen in the kernel."""
    live = live_revision(node.cluster)
    if is_outdated(live):
        return  # it keeps what it was told by the lbadmin that compiled this
    effective = effective_of(cluster=node.cluster, revision=live)
    key = live.pk, effective.digest
    carried = node.carried_revision_id, node.carried_overrides
    if memory.settled and memory.handed_over != key and carried == key:
        hand_over(guard=guard, confirmed=confirmed_state(live, effective))
        memory.handed_over = key


def _run(*, job: Job, bench: Bench, memory: NodeMemory, identity: str) -> None:
    run_job(
        job_id=str(job.pk),
        node_name=job.node.name,
        kernel=bench.kernel,
        guard=bench.guard,
        identity=identity,
        confirm=bench.confirm,
        clock=bench.clock,
        pause=bench.pause,
    )
    memory.compare_due = None  # after every write
    # What its guard put back is laid over again, and what was found meanwhile has waited.
    carry_own_health(node=job.node, bench=bench, memory=memory)
    look_soon(node=job.node, memory=memory.balancing, now=bench.clock())


def _converge(*, node: Node, cause: str, bench: Bench, memory: NodeMemory, identity: str) -> None:
    with audit.writing():
        # Deployments take this lock too, so none of them queues a job for the node in this moment.
        cluster = lock_cluster(node.cluster)
        if _is_deploying(node) or Job.objects.filter(node=node, state__in=JOB_ACTIVE).exists():
            return
        job = queue_job(actor=None, node=node, revision=live_revision(cluster), cause=cause, announce=False)
        link_job(node=node, job=job)
    _run(job=job, bench=bench, memory=memory, identity=identity)


def _is_deploying(node: Node) -> bool:
    return Deployment.objects.filter(cluster=node.cluster, state__in=DEPLOYMENT_ACTIVE).exists()
