"""Whether a node's worker is there. A worker is seen at every tick, but not while it is at a job."""

from datetime import datetime, timedelta

from balancer.domain.lifecycle import JobState
from balancer.models import Job, Node

ABSENT_AFTER = timedelta(seconds=30)
"""Six ticks."""
GONE_AFTER = timedelta(minutes=5)
"""Longer than any job takes: a worker that was not seen for so long is not at work either."""


def is_absent(*, node: Node, now: datetime) -> bool:
    """The worker has not been seen for a while, or never."""
    return node.last_seen is None or now - node.last_seen > ABSENT_AFTER


def is_gone(*, job: Job, now: datetime) -> bool:
    """Nobody has to wait any more for the worker that claimed this job."""
    signs = [time for time in (job.claimed_at, job.node.last_seen) if time is not None]
    return not signs or now - max(signs) > GONE_AFTER


def is_down(*, node: Node, now: datetime) -> bool:
    """A roll-out cannot count on this node: its worker is absent, and not because it is at a job."""
    if not is_absent(node=node, now=now):
        return False
    for job in Job.objects.filter(node=node, state=JobState.RUNNING).select_related("node"):
        if not is_gone(job=job, now=now):
            return False
    return not Job.objects.filter(
        node=node, claimed_at__isnull=False, finished_at__gt=now - ABSENT_AFTER
    ).exists()
