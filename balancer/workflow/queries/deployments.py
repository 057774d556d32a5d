"""How far a deployment is: what the progress view polls."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JobState
from balancer.models import Deployment, Job
from balancer.workflow.presence import is_absent, is_gone


@dataclass(frozen=True, slots=True)
class JobView:
    node: str
    state: str
    steps: tuple[tuple[datetime, str], ...]
    receipt: dict[str, Any] | None
    error: str
    attempts: int
    waiting_for: str
    """Why it has not begun, in a sentence; empty otherwise."""


@dataclass(frozen=True, slots=True)
class DeploymentView:
    deployment: Deployment
    jobs: tuple[JobView, ...]
    active: bool
    """Poll again while it is."""
    done: int
    can_cancel: bool
    """There is a node that has not begun, or one whose worker is gone."""


def view_deployment(*, deployment: Deployment) -> DeploymentView:
    jobs = list(deployment.jobs.select_related("node").order_by("node__name"))
    active = deployment.state in DEPLOYMENT_ACTIVE
    return DeploymentView(
        deployment=deployment,
        jobs=tuple(_view_job(job) for job in jobs),
        active=active,
        done=sum(job.state == JobState.SUCCEEDED for job in jobs),
        can_cancel=active and any(_can_cancel(job) for job in jobs),
    )


def _can_cancel(job: Job) -> bool:
    gone = job.state == JobState.RUNNING and is_gone(job=job, now=timezone.now())
    return gone or job.state == JobState.QUEUED


def _view_job(job: Job) -> JobView:
    waiting = ""
    if job.state == JobState.QUEUED:
        waiting = "Waiting for the node's worker to take it."
        if is_absent(node=job.node, now=timezone.now()):
            waiting = "The node's worker does not answer. Start it, or cancel the deployment."
    return JobView(
        node=job.node.name,
        state=job.state,
        steps=tuple((datetime.fromisoformat(step["at"]), step["text"]) for step in job.steps),
        receipt=job.receipt,
        error=job.error,
        attempts=job.attempts,
        waiting_for=waiting,
    )
