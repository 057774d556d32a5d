"""The operation policy of a cluster: how what was approved is brought to its nodes."""

from dataclasses import asdict

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE
from balancer.domain.operation import OperationPolicy, describe_operation
from balancer.models import Cluster, Deployment, Node
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import lock_cluster
from balancer.workflow.errors import Refused, require_valid
from balancer.workflow.permissions import ADMINISTER, Actor, require
from balancer.workflow.policies import require_no_own_change


@deed(Action.OPERATION_UPDATED, target="cluster")
def update_operation(
    *, actor: Actor, cluster: Cluster, operation: OperationPolicy, canary: Node | None = None
) -> Cluster:
    """Say how changes are brought to this cluster's nodes. Needs ADMINISTER.

    Refused: "own-change" for somebody who wrote an open change here, "busy" while a deployment runs,
    "invalid".
    """
    require(actor=actor, permission=ADMINISTER)
    cluster = lock_cluster(cluster)
    require_no_own_change(actor=actor, cluster=cluster)
    if Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE).exists():
        raise Refused("busy", "A change is being applied under the present policy; wait until that is over.")
    if canary is not None and canary.cluster_id != cluster.pk:
        raise Refused(
            "invalid", f"The node {canary} is not one of the cluster {cluster}; choose one that is."
        )
    was = cluster.operation, cluster.canary
    for name, value in asdict(operation).items():
        setattr(cluster, name, value)
    cluster.canary = canary
    require_valid(cluster)
    cluster.save(update_fields=[*asdict(operation), "canary"])
    if (cluster.operation, cluster.canary) != was:
        facts = {
            "was": was[0].to_data() | {"canary": was[1] and was[1].name},
            "now": operation.to_data() | {"canary": canary and canary.name},
            "words": " ".join(describe_operation(operation)),
        }
        audit.record(actor=actor, action=Action.OPERATION_UPDATED, target=cluster, facts=facts)
    return cluster
