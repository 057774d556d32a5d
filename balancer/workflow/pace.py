"""How often a node's worker writes its kernel by itself: for health and for weights that the node moves,
together at most once a second. What people ask for does not wait."""

from datetime import datetime, timedelta

from balancer.models import Node, NodeBalance, NodeHealth

WRITE_EVERY = timedelta(seconds=1)


def time_to_wait(node: Node, *, now: datetime) -> timedelta:
    """Until it may write again; nothing where it may. A clock that was set back holds nothing up."""
    times = [
        *NodeHealth.objects.filter(node=node).values_list("written_at", flat=True),
        *NodeBalance.objects.filter(node=node).values_list("written_at", flat=True),
    ]
    left = (at + WRITE_EVERY - now for at in times if at is not None and at <= now)
    return max([timedelta(), *left])
