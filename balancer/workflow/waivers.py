"""What is applied without votes: an emergency, and the way back that the policy leaves open.

Asked when a deployment begins and by the worker of every node, who trust neither the rows nor each other.
"""

from balancer.domain.lifecycle import DeploymentState
from balancer.models import Change, Cluster, Deployment, Emergency, Revision
from balancer.workflow.approvals import why_not_agreed, why_not_approved
from balancer.workflow.changes import digest_change
from balancer.workflow.errors import Refused
from balancer.workflow.rehearsed import require_rehearsed
from balancer.workflow.revisions import live_revision

EMERGENCY = "emergency"
AT_ONCE = "rollback-at-once"


def waiver_of(deployment: Deployment) -> str | None:
    """What stood in for the approvals; None where they were there."""
    if deployment.emergency_id is not None:
        return EMERGENCY
    return AT_ONCE if deployment.change.at_once else None


def why_not_let_through(*, change: Change, emergency: Emergency | None = None) -> str | None:
    """Why the change must not be brought to the nodes, in sentences; None where it may.

    An emergency answers for exactly what was proposed when it was declared; a rollback at once leads to what
    was live before. All others need their votes and their rehearsal, which a withdrawn rollback does too.
    """
    if emergency is not None:
        return why_not_emergency(change=change, emergency=emergency)
    return why_not_at_once(change) if change.at_once else why_not_approved(change)


def require_let_through(*, change: Change, emergency: Emergency | None) -> None:
    """Refused("not-approved") or, where only the rehearsal is missing, Refused("not-rehearsed")."""
    if emergency is None and not change.at_once:
        why_not = why_not_agreed(change)
        if why_not is None:
            return require_rehearsed(change)
    else:
        why_not = why_not_let_through(change=change, emergency=emergency)
    if why_not is not None:
        raise Refused("not-approved", f"{why_not} Withdraw it, submit it again and have it approved.")


def why_not_emergency(*, change: Change, emergency: Emergency) -> str | None:
    if emergency.change_id != change.pk:
        return f"The emergency was declared for another change than {change}."
    if not emergency.digest == change.digest == digest_change(change):
        return (
            f"{change} is not what it was when the emergency was declared, or the policy has changed since."
        )
    return None


def why_not_at_once(change: Change) -> str | None:
    cluster = change.cluster
    if not cluster.operation.rollback_at_once:
        return f"The policy of {cluster} lets nobody roll back without an approval."
    if digest_change(change) != change.digest:
        return f"{change} is not what was asked for, or the policy has changed since."
    try:
        target = previous_revision(cluster)
    except Refused as refusal:
        return refusal.message
    if change.rollback_services is not None or change.rollback_of_id != target.pk:
        return f"{change} does not lead to {target}, which was live before; it needs an approval."
    return None


def previous_revision(cluster: Cluster) -> Revision:
    """What was live before what is live now; Refused("nothing") where there was nothing before."""
    live = live_revision(cluster)
    done = Deployment.objects.filter(cluster=cluster, state=DeploymentState.SUCCEEDED).order_by("-pk")
    latest = [deployment.revision for deployment in done.select_related("revision")[:2]]
    if live.number == 0 or not latest or latest[0] != live:
        raise Refused("nothing", f"Nothing was live in {cluster} before {live}, so there is no way back.")
    return latest[1] if len(latest) > 1 else Revision.objects.get(cluster=cluster, number=0)
