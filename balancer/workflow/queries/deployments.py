"""How far a deployment is: what the progress view polls."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, JOB_ENDED, JOB_PASSED, JobState
from balancer.domain.operation import Away, Confirm
from balancer.models import Deployment, Job
from balancer.workflow.clock import Clock
from balancer.workflow.presence import is_down, is_gone
from balancer.workflow.rollout import join_names

_ORDINALS = {1: "st", 2: "nd", 3: "rd"}


@dataclass(frozen=True, slots=True)
class JobView:
    node: str
    state: str
    place: str
    """`2nd of 5`; empty outside of a roll-out."""
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
    afterwards: str
    """What became of the node since, where that is not what the job did: put back, or caught up."""


@dataclass(frozen=True, slots=True)
class CancelView:
    """What a cancel can still stop, and what it cannot, in sentences."""

    possible: bool
    """There is a node that has not begun, one that waits for its confirm, or one whose worker is gone."""
    stops: str
    cannot: str
    puts_back: str


@dataclass(frozen=True, slots=True)
class DeploymentView:
    deployment: Deployment
    jobs: tuple[JobView, ...]
    """In the order of the roll-out."""
    active: bool
    """Poll again while it is: it runs, or what it did is being put back."""
    running: bool
    done: int
    cancelling: str
    """What was stopped and what goes on, while a deployment that was cancelled waits for a node at work."""
    cancel: CancelView
    can_confirm: bool
    """A node waits for a confirm, and people have a say in it."""


def view_deployment(*, deployment: Deployment, clock: Clock = timezone.now) -> DeploymentView:
    jobs = list(deployment.jobs.select_related("node", "confirmed_by").order_by("position", "node__name"))
    running, now = deployment.state in DEPLOYMENT_ACTIVE, clock()
    ways_back = {} if running else _ways_back(deployment, jobs)
    views = tuple(_view_job(job, jobs=jobs, way_back=ways_back.get(job.node_id), now=now) for job in jobs)
    return DeploymentView(
        deployment=deployment,
        jobs=views,
        active=running or any(way.state in JOB_ACTIVE for way in ways_back.values()),
        running=running,
        done=sum(job.state == JobState.SUCCEEDED for job in jobs),
        cancelling=_describe_cancelling(jobs) if running else "",
        cancel=_view_cancel(jobs, running=running, now=now),
        can_confirm=deployment.cluster.operation.confirm is not Confirm.AUTOMATIC
        and any(view.seconds_left and not view.asked_by for view in views),
    )


def _ways_back(deployment: Deployment, jobs: list[Job]) -> dict[int, Job]:
    """Node -> the latest convergence since the end of a deployment that was not to stay."""
    if deployment.finished_at is None or all(job.state in JOB_PASSED for job in jobs):
        return {}
    nodes = [job.node_id for job in jobs if job.claimed_at is not None]
    found = Job.objects.filter(
        node__in=nodes, reason=Job.Reason.CONVERGE, queued_at__gte=deployment.finished_at
    )
    return {job.node_id: job for job in found.select_related("revision").order_by("queued_at")}


def _view_job(job: Job, *, jobs: list[Job], way_back: Job | None, now: datetime) -> JobView:
    return JobView(
        node=job.node.name,
        state=job.state,
        place=_place(job, total=len(jobs)),
        steps=tuple((datetime.fromisoformat(step["at"]), step["text"]) for step in job.steps),
        receipt=job.receipt,
        error=job.error,
        attempts=job.attempts,
        waiting_for=_why_waiting(job, jobs=jobs, now=now) if job.state == JobState.QUEUED else "",
        seconds_left=_seconds_left(job, now=now),
        probes=tuple((probe["passed"], probe["text"]) for probe in job.probes),
        asked_by=job.confirmed_by.get_username() if job.confirmed_by else "",
        afterwards=_describe_afterwards(job, way_back=way_back),
    )


def _seconds_left(job: Job, *, now: datetime) -> int | None:
    if job.state != JobState.UNCONFIRMED or job.confirm_by is None:
        return None
    return max(0, round((job.confirm_by - now).total_seconds()))


def _place(job: Job, *, total: int) -> str:
    if job.position == 0 or total == 1:
        return ""
    ending = "th" if 10 <= job.position % 100 <= 20 else _ORDINALS.get(job.position % 10, "th")
    return f"{job.position}{ending} of {total}{', the canary' if job.position == 1 else ''}"


def _why_waiting(job: Job, *, jobs: list[Job], now: datetime) -> str:
    before = [one for one in jobs if one.position < job.position and one.state not in JOB_PASSED]
    if before:
        return f"Waits for {before[0].node.name}."
    if not is_down(node=job.node, now=now):
        return "Waiting for the node's worker to take it."
    if job.position > 1 and job.node.cluster.operation.away == Away.SKIP:
        return "The node is down; the roll-out goes on without it in a moment."
    return "The node is down, and the roll-out waits for it. Start its worker, or cancel the deployment."


def _describe_afterwards(job: Job, *, way_back: Job | None) -> str:
    if job.state == JobState.SKIPPED:
        if job.node.carried_revision_id == job.revision_id:
            return "The node was down; it has caught up since."
        return "The node was down, and the roll-out went on without it. It catches up when it returns."
    if job.state == JobState.CANCELLED and job.claimed_at is None:
        return "It had not begun, so nothing was changed here."
    if way_back is None:
        return ""
    number = way_back.revision.number
    if way_back.state == JobState.SUCCEEDED:
        return f"Put back: it carries revision {number} again."
    if way_back.state in JOB_ACTIVE:
        return f"Being put back to revision {number}."
    return f"It could not be put back to revision {number} yet, and tries again: {way_back.error}"


def _view_cancel(jobs: list[Job], *, running: bool, now: datetime) -> CancelView:
    queued = [job for job in jobs if job.state == JobState.QUEUED]
    busy = [job for job in jobs if job.state in JOB_ACTIVE - {JobState.QUEUED}]
    gone = _names(job for job in busy if job.state == JobState.RUNNING and is_gone(job=job, now=now))
    waiting = _names(job for job in busy if job.state == JobState.UNCONFIRMED and job.confirmed_by is None)
    at_work = [name for name in _names(busy) if name not in {*gone, *waiting}]
    untouched = _names(job for job in queued if job.claimed_at is None)
    back = _names(
        job for job in jobs if job.state == JobState.SUCCEEDED or (job in queued and job.claimed_at)
    )
    stops = _say(
        untouched, "has not begun and will not be touched.", "have not begun and will not be touched."
    )
    if gone:
        stops += f" The worker of {join_names(gone)} is gone; nobody waits for it any more."
    return CancelView(
        possible=running and bool(queued or gone or waiting),
        stops=stops.strip(),
        cannot=_say(
            at_work,
            "is at work, which cannot be stopped: when it is done it is put back.",
            "are at work, which cannot be stopped: when they are done they are put back.",
        ),
        puts_back=_say(
            back + gone + waiting, "is put back to what was live.", "are put back to what was live."
        ),
    )


def _describe_cancelling(jobs: list[Job]) -> str:
    stopped = _names(job for job in jobs if job.state == JobState.CANCELLED)
    at_work = _names(job for job in jobs if job.state not in JOB_ENDED)
    if not stopped or not at_work:
        return ""
    first = _say(
        stopped,
        "was stopped before anything was changed there.",
        "were stopped before anything was changed there.",
    )
    verb = "was" if len(at_work) == 1 else "were"
    return (
        f"Cancelled: {first} {join_names(at_work)} {verb} at work already; when that is over, all that has"
        " changed is put back."
    )


def _names(jobs: Iterable[Job]) -> list[str]:
    return [job.node.name for job in jobs]


def _say(names: list[str], one: str, several: str) -> str:
    """Empty where there are none."""
    return f"{join_names(names)} {one if len(names) == 1 else several}" if names else ""
