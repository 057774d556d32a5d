"""Weights that nodes move themselves, for the pages of services and nodes."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from balancer.admin.shares import format_percent
from balancer.models import Node, Service, WeightMove
from balancer.workflow import queries


def weights_of_service(row: Service) -> dict[str, Any]:
    """What console/own_weights.html wants."""
    shares = queries.shares_on_nodes(cluster=row.cluster, name=row.name)
    moves = queries.moves_of_service(cluster=row.cluster, name=row.name) if shares else ()
    return {
        "node_shares": [
            {
                "node": share.node,
                "endpoint": share.endpoint,
                "now": format_percent(share.now),
                "declared": format_percent(share.declared),
            }
            for share in shares
        ],
        "weight_moves": _show(moves),
    }


def weights_of_node(row: Node) -> dict[str, Any]:
    """What the card of moved weights on a node's page wants."""
    return {"weight_moves": _show(queries.moves_of_node(node=row)), "of_node": True}


def _show(moves: Iterable[WeightMove]) -> list[dict[str, Any]]:
    return [
        {"row": move, "before": _percent(move.share_before), "after": _percent(move.share_after)}
        for move in moves
    ]


def _percent(share: float) -> str:
    return format_percent(Fraction(share))
