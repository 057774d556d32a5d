"""Celery's entry points. A message brings a row's id or nothing; the node is the worker's own."""

from celery import shared_task

from balancer import wiring
from balancer.workflow.queue import APPLY_JOB, CONFIRM_JOB, NODE_TICK, REHEARSE


@shared_task(name=APPLY_JOB)
def apply_job(job_id: str) -> None:
    wiring.run_own_job(job_id=job_id)


@shared_task(name=REHEARSE)
def rehearse(rehearsal_id: str) -> None:
    wiring.run_own_rehearsal(rehearsal_id=rehearsal_id)


@shared_task(name=CONFIRM_JOB)
def confirm_job(job_id: str) -> None:
    wiring.confirm_own_job(job_id=job_id)


@shared_task(name=NODE_TICK)
def node_tick() -> None:
    wiring.reconcile_own_node()
