"""Rows of the weights that a node moves itself, read as values and written."""

from datetime import datetime

from balancer.domain.own_weights import Memory, Remembered, carried, has_own_weights
from balancer.domain.types import Document
from balancer.models import Node, NodeBalance


def memory_of(node: Node, document: Document) -> Memory:
    """What the node remembers, as far as it can matter to the document: most documents need no look at it."""
    if not any(has_own_weights(service) for service in document.services):
        return Memory()
    row = NodeBalance.objects.filter(node=node).first()
    return Memory() if row is None else memory_of_row(row)


def memory_of_row(row: NodeBalance) -> Memory:
    return Memory(
        taking={name: tuple(endpoints) for name, endpoints in row.taking.items()},
        services={name: Remembered.from_data(data) for name, data in row.services.items()},
    )


def remember_carried(*, node: Node, document: Document, now: datetime) -> None:
    """The node carries the document, with the overrides, from now on: whoever came back begins to rise."""
    row, _ = NodeBalance.objects.get_or_create(node=node)
    store(row, carried(document, memory_of_row(row), now=now))


def store(row: NodeBalance, memory: Memory) -> None:
    """All of the row, with its times as they are on it."""
    row.taking = {name: list(endpoints) for name, endpoints in memory.taking.items()}
    row.services = {name: found.to_data() for name, found in memory.services.items()}
    row.save()
