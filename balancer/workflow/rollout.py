"""The order of a roll-out: the canary first, then one node after the other."""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import QuerySet

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, JOB_PASSED, JobState
from balancer.models import Cluster, Deployment, Job, Node


def order_nodes(*, cluster: Cluster, nodes: Iterable[Node]) -> list[Node]:
    """The canary that the policy names, else the first by name; the others by name."""
    return sorted(nodes, key=lambda node: (node.pk != cluster.canary_id, node.name))


def why_not_yet(job: Job) -> str:
    """Why the turn of a queued job has not come, in a sentence; empty where it has."""
    waits = _before(job).exclude(state__in=JOB_PASSED).select_related("node").order_by("position").first()
    if waits is None:
        return ""
    return f"In this roll-out {job.node.name} comes after {waits.node.name}, which is {waits.state}."


def turn_since(job: Job) -> datetime | None:
    """When the turn of a queued job came; None where it has not."""
    if why_not_yet(job):
        return None
    ended = [at for at in _before(job).values_list("finished_at", flat=True) if at is not None]
    return max([job.queued_at, *ended])


def find_next(deployment: Deployment) -> Job | None:
    """The queued job whose turn it is."""
    job = (
        Job.objects.filter(deployment=deployment, state__in=JOB_ACTIVE)
        .select_related("node", "deployment")
        .order_by("position")
        .first()
    )
    return job if job is not None and job.state == JobState.QUEUED and not why_not_yet(job) else None


def find_running(cluster: Cluster) -> Deployment | None:
    """The deployment that runs in the cluster."""
    running = Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE)
    return running.select_related("revision").first()


def describe_cancel(jobs: list[Job]) -> str:
    """What a cancelled deployment stopped and what it leaves to be put back."""
    stopped = [job.node.name for job in jobs if job.state == JobState.CANCELLED]
    back = [job.node.name for job in jobs if job.claimed_at is not None]
    text = f"Cancelled before {join_names(stopped)} had begun."
    if back:
        text += f" {join_names(back)} had, and {'is' if len(back) == 1 else 'are'} put back."
    return text


def join_names(names: Iterable[str]) -> str:
    """`lb1, lb2 and lb3`."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def _before(job: Job) -> "QuerySet[Job]":
    return Job.objects.filter(deployment=job.deployment_id, position__lt=job.position)
