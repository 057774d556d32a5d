"""Clusters, nodes and people: what an administrator sets up."""

from django.contrib.auth.models import Group, User

from balancer.models import Cluster, Node
from balancer.models.roles import ROLES
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.errors import Refused, require_valid
from balancer.workflow.permissions import ADMINISTER, Actor, require
from balancer.workflow.policies import record_person
from balancer.workflow.revisions import live_revision


@deed(Action.CLUSTER_CREATED)
def create_cluster(*, actor: Actor, name: str, description: str = "") -> Cluster:
    """A cluster that carries the empty revision 0. Needs ADMINISTER."""
    require(actor=actor, permission=ADMINISTER)
    cluster = Cluster(name=name, description=description)
    require_valid(cluster)
    cluster.save()
    live_revision(cluster)
    audit.record(actor=actor, action=Action.CLUSTER_CREATED, target=cluster)
    return cluster


@deed(Action.CLUSTER_UPDATED, target="cluster")
def update_cluster(*, actor: Actor, cluster: Cluster, name: str, description: str) -> Cluster:
    """Needs ADMINISTER."""
    require(actor=actor, permission=ADMINISTER)
    cluster.name, cluster.description = name, description
    require_valid(cluster)
    cluster.save(update_fields=["name", "description"])
    audit.record(actor=actor, action=Action.CLUSTER_UPDATED, target=cluster, facts={"name": name})
    return cluster


@deed(Action.NODE_CREATED, target="cluster")
def create_node(
    *, actor: Actor, cluster: Cluster, name: str, description: str = "", driver: str = Node.Driver.AUTO
) -> Node:
    """A node of the cluster; its worker (LBADMIN_NODE=name) fills in the rest. Needs ADMINISTER."""
    require(actor=actor, permission=ADMINISTER)
    node = Node(cluster=cluster, name=name, description=description, driver=driver)
    require_valid(node)
    node.save()
    facts = {"cluster": cluster.name, "driver": str(driver)}
    audit.record(actor=actor, action=Action.NODE_CREATED, target=node, facts=facts)
    return node


@deed(Action.NODE_UPDATED, target="node")
def update_node(
    *, actor: Actor, node: Node, description: str, driver: str, enabled: bool | None = None
) -> Node:
    """The name is the queue's and the worker's, so it stays. Needs ADMINISTER.

    A node that is not `enabled` takes no part in deployments; it comes back to what is live when it is.
    """
    require(actor=actor, permission=ADMINISTER)
    was = {"description": node.description, "driver": str(node.driver), "enabled": node.enabled}
    node.description, node.driver = description, driver
    node.enabled = node.enabled if enabled is None else enabled
    require_valid(node)
    node.save(update_fields=["description", "driver", "enabled"])
    facts = {"was": was, "driver": str(driver), "enabled": node.enabled}
    audit.record(actor=actor, action=Action.NODE_UPDATED, target=node, facts=facts)
    return node


@deed(Action.PERSON_CREATED)
def create_person(*, actor: Actor, username: str, password: str, roles: tuple[str, ...]) -> User:
    """An account that can sign in to the console with these roles. Needs ADMINISTER."""
    require(actor=actor, permission=ADMINISTER)
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        raise Refused("invalid", f"There is no role {', '.join(unknown)}; there are {', '.join(ROLES)}.")
    if User.objects.filter(username=username).exists():
        raise Refused("taken", f"There is an account named {username} already.")
    user = User.objects.create_user(username=username, password=password, is_staff=True)
    user.groups.set(Group.objects.filter(name__in=roles))
    record_person(actor=actor, person=user, was=None)
    return user
