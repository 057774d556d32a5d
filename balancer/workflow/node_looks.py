"""What a worker remembers of its node, and what looking at the kernel says: whether to bring it back now."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from balancer.domain.lifecycle import JOB_ACTIVE, JobState
from balancer.domain.operation import OnDrift
from balancer.domain.types import Family
from balancer.kernel.base import Kernel, KernelError
from balancer.kernel.guardian import nothing_of_ours
from balancer.models import Job, Node, Revision
from balancer.ruleset.ir import Ruleset
from balancer.workflow.balancing import BalancingMemory
from balancer.workflow.clock import Clock
from balancer.workflow.drift import note_look, rest_after, why_put_back
from balancer.workflow.effective import Effective, carries, effective_of, rulesets_on_nodes
from balancer.workflow.leaving import LeavingMemory
from balancer.workflow.observations import ObservationMemory
from balancer.workflow.persistence import ClientsMemory
from balancer.workflow.revisions import is_outdated, live_revision

COMPILED_KEPT = 2
RETRY_FIRST, RETRY_MAX = timedelta(seconds=5), timedelta(minutes=5)


@dataclass(slots=True)
class NodeMemory:
    """What a worker process remembers from one tick to the next; a new process begins with nothing."""

    announced: bool = False
    settled: bool = False
    """Since this process began, the kernel was seen to carry what it should."""
    facts_due: datetime | None = None
    machine: str = ""
    """`Difference.machine` of the last look."""
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


def why_converge(*, node: Node, kernel: Kernel, memory: NodeMemory, clock: Clock) -> str:
    """The reason to bring the kernel back now; empty where there is none, or where a retry is not due."""
    live, now = live_revision(node.cluster), clock()
    if is_outdated(live):
        watch(node=node, kernel=kernel, memory=memory, clock=clock)
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


def watch(*, node: Node, kernel: Kernel, memory: NodeMemory, clock: Clock) -> None:
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
        found = [
            kernel.compare(ruleset=ruleset) for ruleset in compiled_for(revision, effective, memory=memory)
        ]
    except KernelError as error:
        memory.compare_due = now + rest_after(clock() - now)
        Node.objects.filter(pk=node.pk).update(in_sync=None, sync_detail=str(error), checked_at=now)
        return None
    memory.compare_due = now + rest_after(clock() - now)
    machine = " ".join(one.machine for one in found)
    if memory.machine not in {"", machine}:
        memory.facts_due = None  # what its checks say is not up to date
    memory.machine = machine
    in_sync = note_look(node=node, revision=revision, found=found, now=now)
    memory.settled = memory.settled or in_sync
    return in_sync


def compiled_for(revision: Revision, effective: Effective, *, memory: NodeMemory) -> tuple[Ruleset, ...]:
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
