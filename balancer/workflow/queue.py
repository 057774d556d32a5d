"""Telling a node that a job waits. The row is the queue; the message is a hint that may be lost."""

import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from balancer.models import Job, Node

APPLY_JOB = "balancer.tasks.apply_job"
CONFIRM_JOB = "balancer.tasks.confirm_job"
NODE_TICK = "balancer.tasks.node_tick"

logger = logging.getLogger(__name__)


def publish_on_commit(job: Job) -> None:
    """After the commit, send the job's id to its node. Without a broker the node finds the row by itself."""
    _publish(job, task=APPLY_JOB)


def publish_confirm_on_commit(job: Job) -> None:
    """The same for a person's confirm, which the node also finds at its next tick."""
    _publish(job, task=CONFIRM_JOB)


def _publish(job: Job, *, task: str) -> None:
    job_id, queue = str(job.pk), job.node.queue
    transaction.on_commit(lambda: _send(task=task, job_id=job_id, queue=queue), robust=True)


def _send(*, task: str, job_id: str, queue: str) -> None:
    try:
        current_app.send_task(task, args=[job_id], queue=queue, retry=False, ignore_result=True)
    except OperationalError as error:
        logger.warning(
            "Job %s waits, but the broker cannot be reached (%s); its node will find it.", job_id, error
        )


def node_queues() -> list[str]:
    """The queue of every node, in order of name."""
    return [node.queue for node in Node.objects.order_by("name")]
