"""What nodes have made of the weights of a service, and why."""

from dataclasses import dataclass
from fractions import Fraction

from balancer.domain.own_weights import has_own_weights, with_own_weights
from balancer.domain.types import Document
from balancer.models import Cluster, Node, WeightMove
from balancer.ruleset.schedulers import promised_shares
from balancer.workflow.documents import service_named
from balancer.workflow.effective import effective_of

MOVES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class NodeShare:
    """A backend's share of new connections on one node."""

    node: Node
    endpoint: str
    now: Fraction
    declared: Fraction
    """With the overrides in force."""


def shares_on_nodes(*, cluster: Cluster, name: str) -> tuple[NodeShare, ...]:
    """Of a service whose weights nodes move themselves, on every node that carries it; else nothing."""
    nodes = cluster.nodes.filter(enabled=True, carried_revision__isnull=False).order_by("name")
    found: list[NodeShare] = []
    for node in nodes.select_related("carried_revision").defer("observation"):
        assert node.carried_revision is not None
        effective = effective_of(cluster=cluster, revision=node.carried_revision, node=node)
        service = service_named(effective.healthy, name)
        if service is None or not has_own_weights(service):
            continue
        declared = promised_shares(service)
        (moved,) = with_own_weights(Document(services=(service,)), effective.weights).services
        found += [
            NodeShare(node=node, endpoint=endpoint, now=share, declared=declared[endpoint])
            for endpoint, share in promised_shares(moved).items()
        ]
    return tuple(found)


def moves_of_service(*, cluster: Cluster, name: str) -> tuple[WeightMove, ...]:
    """The last ones on all nodes, the newest first."""
    found = WeightMove.objects.filter(node__cluster=cluster, service_name=name)
    return tuple(found.select_related("node")[:MOVES_SHOWN])


def moves_of_node(*, node: Node) -> tuple[WeightMove, ...]:
    return tuple(WeightMove.objects.filter(node=node).select_related("node")[:MOVES_SHOWN])
