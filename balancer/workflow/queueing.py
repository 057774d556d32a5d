"""Jobs in the queue of their nodes: put there, and taken back before anybody has claimed them."""

from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.models import Deployment, Job, Node, Revision
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.permissions import Actor
from balancer.workflow.queue import publish_on_commit


def queue_job(
    *,
    actor: Actor,
    node: Node,
    revision: Revision,
    deployment: Deployment | None = None,
    cause: str = "",
    position: int = 0,
    announce: bool = True,
) -> Job:
    """A job in the state queued, announced to its node after the commit; not where the node itself queues it,
    nor where others come first."""
    job = Job.objects.create(
        deployment=deployment,
        node=node,
        revision=revision,
        reason=Job.Reason.DEPLOY if deployment else Job.Reason.CONVERGE,
        cause=cause,
        position=position,
        queued_at=timezone.now(),
    )
    facts = {"node": node.name, "revision": revision.number, "reason": str(job.reason), "cause": cause}
    audit.record(actor=actor, action=Action.JOB_QUEUED, target=job, facts=facts)
    if announce:
        publish_on_commit(job)
    return job


def cancel_queued_jobs(*, actor: Actor, deployment: Deployment) -> list[str]:
    """Cancel what no worker has claimed yet; the names of the nodes concerned."""
    names = []
    for job in Job.objects.filter(deployment=deployment, state=JobState.QUEUED).select_related("node"):
        cancelled = Job.objects.filter(pk=job.pk, state=JobState.QUEUED).update(
            state=JobState.CANCELLED, finished_at=timezone.now()
        )
        if cancelled:
            names.append(job.node.name)
            audit.record(actor=actor, action=Action.JOB_CANCELLED, target=job, facts={"node": job.node.name})
    return names
