"""A node looks after itself: it finds its jobs, goes back to what it should carry, and says how it is.

Runs when the worker starts and at every tick. A tick carries nothing; all that is decided here comes from
rows and from the kernel.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, JobState
from balancer.domain.operation import OnDrift
from balancer.domain.types import Family
from balancer.kernel.base import Kernel, KernelError
from balancer.kernel.guard import Guard
from balancer.kernel.guard_files import GuardError
from balancer.kernel.guardian import nothing_of_ours
from balancer.models import Deployment, Job, Node, Revision
from balancer.ruleset.ir import Ruleset
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.balancing import BalancingMemory, balance_node
from balancer.workflow.changes import lock_cluster
from balancer.workflow.clock import Clock
from balancer.workflow.confirming import Bench, Checks, confirmed_state, look_after_unconfirmed, no_checks
from balancer.workflow.drift import link_job, note_look, rest_after, why_put_back
from balancer.workflow.drills import drop_untimely_drill, start_due_drill
from balancer.workflow.effective import Effective, carries, effective_of, rulesets_on_nodes
from balancer.workflow.endings import skip_absent_node
from balancer.workflow.guard_news import hand_over, read_guard_news
from balancer.workflow.health_carrying import Differs, carry_health
from balancer.workflow.jobs import recover_jobs, run_job
from balancer.workflow.leaving import LeavingMemory, refresh_leaving
from balancer.workflow.messages import record_refused_job
from balancer.workflow.observations import ObservationMemory, refresh_observation
from balancer.workflow.persistence import ClientsMemory, carry_out_clearings, refresh_clients
from balancer.workflow.queueing import queue_job
from balancer.workflow.rehearsing import Rehearse, recover_rehearsals, rehearse_next
from balancer.workflow.revisions import is_outdated, live_revision
from balancer.workflow.rollout import turn_since
from balancer.workflow.windows import run_due_windows

logger = logging.getLogger(__name__)

FACTS_EVERY = timedelta(seconds=60)
MESSAGE_GRACE = timedelta(seconds=3)
"""A job that was just queued has its message still on the way; the message comes first."""
COMPILED_KEPT = 2
RETRY_FIRST, RETRY_MAX = timedelta(seconds=5), timedelta(minutes=5)


@dataclass(slots=True)
class NodeMemory:
    """What a worker process remembers from one tick to the next; a new process begins with nothing."""

    announced: bool = False
    settled: bool = False
    """Since this process began, the kernel was seen to carry what it should."""
    facts_due: datetime | None = None
    compare_due: datetime | None = None
    health_waits: bool = False
    """What the health checks found could not be carried, as the kernel differs from what it should carry."""
    compiled: dict[tuple[int, str, str, str], tuple[Ruleset, ...]] = field(default_factory=dict)
    """The rulesets of a revision's key and of what is laid over it, the last two that were asked for:
    compiling big ones takes seconds."""
    handed_over: tuple[int, str] | None = None
    """Revision's key and digest of overrides of what the node's guard was seen to know."""
    balancing: BalancingMemory = field(default_factory=BalancingMemory)
    observing: ObservationMemory = field(default_factory=ObservationMemory)
    clients: ClientsMemory = field(default_factory=ClientsMemory)
    leaving: LeavingMemory = field(default_factory=LeavingMemory)


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
) -> None:
    """Record what the node's guard did, refresh what is known of the node, carry what its health checks
    found, forget the clients that it was asked to forget, then do the first of these:

    leave a living worker of this node alone; look after a job that waits for its confirm; run a queued job
    whose turn has come; wait for a running deployment, or until the node takes part again; bring the kernel
    back to the live revision (where the node carries another one, or where the kernel differs, unless the
    policy of the cluster asks people first). With no job at hand, make
    a rollback drill that is due, or a rehearsal that waits, move weights that the node moves itself, and look
    at what the node does.

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
    carry_out_clearings(node=node, kernel=kernel, memory=memory.clients, clock=clock)
    refresh_clients(node=node, kernel=kernel, memory=memory.clients, clock=clock)
    refresh_leaving(node=node, kernel=kernel, memory=memory.leaving, clock=clock)
    skip_absent_node(cluster=node.cluster, clock=clock)
    run_due_windows(cluster=node.cluster, clock=clock)
    if _look_after_unconfirmed(node=node, bench=bench):
        carry_own_health(node=node, bench=bench, memory=memory)  # over what the guard has put back
        return
    drop_untimely_drill(node=node, clock=clock)
    waiting = Job.objects.filter(node=node, state=JobState.QUEUED).select_related("node").first()
    since = turn_since(waiting) if waiting is not None else None
    if waiting is not None and since is not None:
        if waiting.attempts or since <= clock() - MESSAGE_GRACE:
            _run(job=waiting, bench=bench, memory=memory, identity=identity)
        return
    if node.enabled and not _is_deploying(node):
        cause = _why_converge(node=node, kernel=kernel, memory=memory, clock=clock)
        if cause:
            _converge(node=node, cause=cause, bench=bench, memory=memory, identity=identity)
        else:
            _hand_over(node=node, guard=guard, memory=memory)
            _use_leisure(node=node, bench=bench, memory=memory, rehearse=rehearse, identity=identity)
    elif node.enabled:
        _watch(node=node, kernel=kernel, memory=memory, clock=clock)
    balance_node(
        node=node,
        bench=bench,
        memory=memory.balancing,
        compiled=lambda revision, effective: _compiled(revision, effective, memory=memory),
    )
    refresh_observation(node=node, kernel=kernel, memory=memory.observing, clock=clock)


def carry_own_health(*, node: Node, bench: Bench, memory: NodeMemory) -> None:
    """What the node's health checks found since the last time, into its kernel."""
    try:
        written = carry_health(
            node=node,
            tools=bench,
            compiled=lambda revision, effective: _compiled(revision, effective, memory=memory),
        )
    except Differs as error:
        logger.error("%s could not carry what its health checks found: %s", node.name, error)
        memory.compare_due, memory.health_waits = None, True  # this tick looks, and puts ours back if it may
        return
    memory.health_waits = False
    if written:
        node.refresh_from_db(fields=["carried_health", "carried_weights"])


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


def _why_converge(*, node: Node, kernel: Kernel, memory: NodeMemory, clock: Clock) -> str:
    """The reason to bring the kernel back now; empty where there is none, or where a retry is not due."""
    live, now = live_revision(node.cluster), clock()
    if is_outdated(live):
        _watch(node=node, kernel=kernel, memory=memory, clock=clock)
        return ""
    if node.carried_revision_id != live.pk:
        if live.number == 0 and node.carried_revision is None and not _has_had_job(node):
            memory.settled = True
            return ""
        carried = f"revision {node.carried_revision.number}" if node.carried_revision else "nothing known"
        cause = f"The node carries {carried} and should carry revision {live.number}."
    elif node.carried_overrides != (effective := _effective(node, live)).digest:
        cause = "The node carries other operational overrides than those in force."
    elif node.carried_weights != effective.weights_digest:
        cause = "The node carries other weights than those to which it had moved itself."
    elif node.carried_health != effective.health_digest:
        cause = "The node carries something else than its health checks had asked for."
    else:
        in_sync = _look(
            node=node, revision=live, effective=effective, kernel=kernel, memory=memory, clock=clock
        )
        if in_sync is False and not memory.settled and _is_mended_at_start(node, kernel):
            cause = f"The kernel did not carry revision {live.number} when the worker started."
        else:
            cause = why_put_back(node=node, now=now, urgent=memory.health_waits)
    return cause if cause and _may_retry(node=node, revision=live, now=now) else ""


def _is_mended_at_start(node: Node, kernel: Kernel) -> bool:
    """A reboot has taken all that is ours along; what differs otherwise is for the policy to say."""
    if node.cluster.operation.on_drift is OnDrift.MEND:
        return True
    return all(kernel.compare(ruleset=nothing_of_ours(family)).in_sync for family in Family)


def _watch(*, node: Node, kernel: Kernel, memory: NodeMemory, clock: Clock) -> None:
    """While a deployment runs, or what is live is outdated: whether the kernel carries what it is known to.
    Nothing is put back now."""
    carried = node.carried_revision
    if carried is None or Job.objects.filter(node=node, state__in=JOB_ACTIVE).exists():
        return
    effective = _effective(node, carried)
    if carries(node, effective):
        _look(node=node, revision=carried, effective=effective, kernel=kernel, memory=memory, clock=clock)


def _effective(node: Node, revision: Revision) -> Effective:
    return effective_of(cluster=node.cluster, revision=revision, node=node)


def _has_had_job(node: Node) -> bool:
    """A drill that was cancelled before it began has touched nothing."""
    jobs = Job.objects.filter(node=node)
    return jobs.exclude(reason=Job.Reason.DRILL, claimed_at__isnull=True).exists()


def _look(
    *,
    node: Node,
    revision: Revision,
    effective: Effective,
    kernel: Kernel,
    memory: NodeMemory,
    clock: Clock,
) -> bool | None:
    """Compare and write down what was found; None where it is not due, or where nobody can tell."""
    now = clock()
    if memory.compare_due is not None and now < memory.compare_due:
        return None
    try:
        found = [kernel.compare(ruleset=ruleset) for ruleset in _compiled(revision, effective, memory=memory)]
    except KernelError as error:
        memory.compare_due = now + rest_after(clock() - now)
        Node.objects.filter(pk=node.pk).update(in_sync=None, sync_detail=str(error), checked_at=now)
        return None
    memory.compare_due = now + rest_after(clock() - now)
    in_sync = note_look(node=node, revision=revision, found=found, now=now)
    memory.settled = memory.settled or in_sync
    return in_sync


def _compiled(revision: Revision, effective: Effective, *, memory: NodeMemory) -> tuple[Ruleset, ...]:
    key = revision.pk, effective.digest, effective.health_digest, effective.weights_digest
    found = memory.compiled.pop(key, None)
    if found is None:
        found = rulesets_on_nodes(revision, effective)
    memory.compiled[key] = found
    while len(memory.compiled) > COMPILED_KEPT:
        del memory.compiled[next(iter(memory.compiled))]
    return found


def _may_retry(*, node: Node, revision: Revision, now: datetime) -> bool:
    """Wait twice as long after each convergence that failed in a row."""
    ended = Job.objects.filter(node=node, reason=Job.Reason.CONVERGE, finished_at__isnull=False)
    wait = RETRY_FIRST
    latest = None
    for job in ended.order_by("-finished_at")[:8]:
        if job.state != JobState.FAILED or job.revision_id != revision.pk:
            break
        latest = latest or job.finished_at
        wait = min(wait * 2, RETRY_MAX)
    return latest is None or now - latest >= wait


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
