"""What a node's guard did on its own, read from its disk and written down; and what it is handed.

The guard knows no database, so the worker tells what it did: at its next tick, first of all.
"""

import logging

from balancer.domain.lifecycle import JobState
from balancer.kernel.guard import Guard
from balancer.kernel.guard_files import GuardError
from balancer.kernel.guard_state import Confirmed
from balancer.kernel.guard_state import Outcome as Restored
from balancer.models import Job, Node
from balancer.workflow import audit
from balancer.workflow.claims import is_alive
from balancer.workflow.clock import Clock
from balancer.workflow.job_records import UNENDED, Outcome, record, record_on_node

logger = logging.getLogger(__name__)


def read_guard_news(*, node: Node, guard: Guard, identity: str, clock: Clock) -> None:
    """Record what the guard put back, once: the node carries it, the job and its deployment have failed."""
    _note_alive(node=node, alive=guard.is_alive())
    try:
        restored = guard.last_outcome()
    except GuardError as error:
        logger.error("What the guard of %s did last cannot be read: %s", node.name, error)
        return
    if restored is None or restored.token == node.guard.get("restored", {}).get("token"):
        return
    if _is_of_drill(restored, node=node):
        return  # as it should be; whoever carries the drill out writes that down
    job = _unended_job(restored, node=node)
    if job is None:
        with audit.writing():
            record_on_node(
                node=node, outcome=Outcome(error=restored.text, restored=restored), revision=None, now=clock()
            )
    elif _is_free(job, identity=identity):
        record(job=job, outcome=Outcome(error=restored.text, restored=restored), clock=clock)
    node.refresh_from_db()


def hand_over(*, guard: Guard, confirmed: Confirmed) -> None:
    """The guard goes back to this from now on, unless it knows already: it was seen in the kernel."""
    try:
        known = guard.confirmed()
        if guard.pending() is None and (known is None or not known.is_same(confirmed)):
            guard.remember(confirmed=confirmed)
    except GuardError as error:
        logger.error("The guard could not be handed revision %s: %s", confirmed.revision, error)


def _unended_job(restored: Restored, *, node: Node) -> Job | None:
    if not restored.job:
        return None
    found = Job.objects.select_related("node__cluster", "revision", "deployment__change")
    return found.filter(pk=restored.job, node=node, state__in=UNENDED).first()


def _is_of_drill(restored: Restored, *, node: Node) -> bool:
    drills = Job.objects.filter(node=node, reason=Job.Reason.DRILL)
    return bool(restored.job) and drills.filter(pk=restored.job).exists()


def _is_free(job: Job, *, identity: str) -> bool:
    """A living process that is at the job finds out by itself."""
    return job.state != JobState.RUNNING or job.claimed_by == identity or not is_alive(job.claimed_by)


def _note_alive(*, node: Node, alive: bool) -> None:
    if node.guard.get("alive") is not alive:
        node.guard = {**node.guard, "alive": alive}
        Node.objects.filter(pk=node.pk).update(guard=node.guard)
