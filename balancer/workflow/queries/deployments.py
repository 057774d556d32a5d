"""How far a deployment is: what the progress view polls."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JobState
from balancer.domain.operation import Confirm
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
    seconds_left: int | None
    """Until the node goes back by itself; None where it does not wait for a confirm."""
    probes: tuple[tuple[bool | None, str], ...]
    """The checks after the commit: whether each holds (None: it could not be asked), and what it says."""
    asked_by: str
    """Who has asked for the confirm that the worker has yet to make final."""


@dataclass(frozen=True, slots=True)
class DeploymentView:
    deployment: Deployment
    jobs: tuple[JobView, ...]
    active: bool
    """Poll again while it is."""
    done: int
    can_cancel: bool
    """There is a node that has not begun, or one whose worker is gone."""
    can_confirm: bool
    """A node waits for a confirm, and people have a say in it."""


def view_deployment(*, deployment: Deployment) -> DeploymentView:
    jobs = list(deployment.jobs.select_related("node", "confirmed_by").order_by("node__name"))
    views = tuple(_view_job(job, now=timezone.now()) for job in jobs)
    active = deployment.state in DEPLOYMENT_ACTIVE
    return DeploymentView(
        deployment=deployment,
        jobs=views,
        active=active,
        done=sum(job.state == JobState.SUCCEEDED for job in jobs),
        can_cancel=active and any(_can_cancel(job) for job in jobs),
        can_confirm=deployment.cluster.operation.confirm is not Confirm.AUTOMATIC
        and any(view.seconds_left and not view.asked_by for view in views),
    )


def _can_cancel(job: Job) -> bool:
    gone = job.state == JobState.RUNNING and is_gone(job=job, now=timezone.now())
    return gone or job.state == JobState.QUEUED


def _view_job(job: Job, *, now: datetime) -> JobView:
    waiting = ""
    if job.state == JobState.QUEUED:
        waiting = "Waiting for the node's worker to take it."
        if is_absent(node=job.node, now=now):
            waiting = "The node's worker does not answer. Start it, or cancel the deployment."
    return JobView(
        node=job.node.name,
        state=job.state,
        steps=tuple((datetime.fromisoformat(step["at"]), step["text"]) for step in job.steps),
        receipt=job.receipt,
        error=job.error,
        attempts=job.attempts,
        waiting_for=waiting,
        seconds_left=_seconds_left(job, now=now),
        probes=tuple((probe["passed"], probe["text"]) for probe in job.probes),
        asked_by=job.confirmed_by.get_username() if job.confirmed_by else "",
    )


def _seconds_left(job: Job, *, now: datetime) -> int | None:
    if job.state != JobState.UNCONFIRMED or job.confirm_by is None:
        return None
    return max(0, round((job.confirm_by - now).total_seconds()))
