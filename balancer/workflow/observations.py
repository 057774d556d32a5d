"""How often a node is looked at, and what is kept of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from balancer.domain.lifecycle import CHANGE_OPEN
from balancer.domain.observation import Observation
from balancer.kernel.base import Kernel, KernelError
from balancer.models import Change, Node
from balancer.workflow.clock import Clock

OBSERVE_EVERY = timedelta(seconds=60)
OBSERVE_FOR_REVIEW_EVERY = timedelta(seconds=10)
"""While somebody may be reading a change of the cluster."""
SLOW = timedelta(seconds=1)
REST = 60
"""A look that was slow is followed by a wait of so many times its length: a sixtieth of a core at most."""


@dataclass(slots=True)
class ObservationMemory:
    """Of a worker process, from one tick to the next."""

    ended_at: datetime | None = None
    took: timedelta = timedelta(0)


def refresh_observation(*, node: Node, kernel: Kernel, memory: ObservationMemory, clock: Clock) -> None:
    """Look at the node if it is due, and keep what was seen, or why nothing could be."""
    started = clock()
    if memory.ended_at is not None and started - memory.ended_at < _wait(node=node, memory=memory):
        return
    try:
        data = kernel.observe().to_data()
    except KernelError as error:
        data = {"error": str(error)}
    memory.ended_at = clock()
    memory.took = memory.ended_at - started
    Node.objects.filter(pk=node.pk).update(observation=data, observed_at=started)


def observation_of(node: Node) -> Observation | None:
    """What was seen at `node.observed_at`; None where nobody has looked, could look or can read it."""
    try:
        return Observation.from_data(node.observation)
    except (KeyError, TypeError, ValueError):
        return None


def _wait(*, node: Node, memory: ObservationMemory) -> timedelta:
    rest = memory.took * REST if memory.took > SLOW else timedelta(0)
    return max(rest, OBSERVE_FOR_REVIEW_EVERY if _is_reviewed(node) else OBSERVE_EVERY)


def _is_reviewed(node: Node) -> bool:
    """The cluster has an open change with something in it."""
    opened = Change.objects.filter(cluster=node.cluster_id, state__in=CHANGE_OPEN)
    return opened.filter(drafts__isnull=False).exists()
