"""A person's confirm of a deployment whose nodes wait for one."""

from django.db.models import QuerySet
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.domain.operation import Confirm
from balancer.models import Deployment, Job
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import lock_cluster
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import APPLY, Actor, require
from balancer.workflow.queue import publish_confirm_on_commit


@deed(Action.DEPLOYMENT_CONFIRMED, target="deployment")
def confirm_deployment(*, actor: Actor, deployment: Deployment) -> Deployment:
    """Ask the nodes that wait to make it final. Needs APPLY.

    The node's worker does so, at once where it can be reached: what its guard says then is what holds.
    Refused: "policy" (people have no say in this cluster), "nothing" (no node waits, or the time is over).
    """
    require(actor=actor, permission=APPLY)
    cluster = lock_cluster(deployment.cluster)
    if cluster.operation.confirm is Confirm.AUTOMATIC:
        raise Refused(
            "policy", "In this cluster only the worker's checks confirm; its policy can be changed."
        )
    waiting = list(waiting_jobs(deployment).filter(confirm_by__gt=timezone.now(), confirmed_by=None))
    if not waiting:
        raise Refused(
            "nothing", "No node waits for a confirm: it was given already, or the time for it is over."
        )
    Job.objects.filter(pk__in=[job.pk for job in waiting]).update(confirmed_by=actor)
    facts = {"revision": deployment.revision.number, "nodes": [job.node.name for job in waiting]}
    audit.record(actor=actor, action=Action.DEPLOYMENT_CONFIRMED, target=deployment, facts=facts)
    for job in waiting:
        publish_confirm_on_commit(job)
    return deployment


def waiting_jobs(deployment: Deployment) -> QuerySet[Job]:
    found = Job.objects.filter(deployment=deployment, state=JobState.UNCONFIRMED)
    return found.select_related("node").order_by("node__name")
