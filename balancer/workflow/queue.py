"""Telling a node that a job or a rehearsal waits. The row is the queue; the message is a hint."""

import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from balancer.models import Job, Node, Rehearsal

APPLY_JOB = "balancer.tasks.apply_job"
REHEARSE = "balancer.tasks.rehearse"
CONFIRM_JOB = "balancer.tasks.confirm_job"
NODE_TICK = "balancer.tasks.node_tick"

logger = logging.getLogger(__name__)


def publish_on_commit(row: Job | Rehearsal) -> None:
    """After the commit, send the row's id to its node. Without a broker the node finds the row by itself."""
    _publish(row, task=APPLY_JOB if isinstance(row, Job) else REHEARSE)


def publish_confirm_on_commit(job: Job) -> None:
    """The same for a person's confirm, which the node also finds at its next tick."""
    _publish(job, task=CONFIRM_JOB)


def publish_tick_on_commit(node: Node) -> None:
    """Have the node look at its rows at once, which it does at its next tick anyway."""
    queue = node.queue
    transaction.on_commit(lambda: _send(task=NODE_TICK, args=[], queue=queue), robust=True)


def _publish(row: Job | Rehearsal, *, task: str) -> None:
    row_id, queue = str(row.pk), row.node.queue
    transaction.on_commit(lambda: _send(task=task, args=[row_id], queue=queue), robust=True)


def _send(*, task: str, args: list[str], queue: str) -> None:
    try:
        current_app.send_task(task, args=args, queue=queue, retry=False, ignore_result=True)
    except OperationalError as error:
        logger.warning(
            "%s %s waits, but the broker cannot be reached (%s); its node will find it.", task, args, error
        )


def node_queues() -> list[str]:
    """The queue of every node, in order of name."""
    return [node.queue for node in Node.objects.order_by("name")]
