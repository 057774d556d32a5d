"""Many who do something in the same moment, on both databases."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connection

from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard_fake import OffGuard
from balancer.workflow.claims import own_identity
from balancer.workflow.errors import Refused
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.nodes import reconcile_node

AT_ONCE = 6
both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


def at_once(*deeds: Callable[[], Any]) -> list[Any]:
    """Each in a thread with a connection of its own, all let go together; results in their order."""
    barrier = Barrier(len(deeds))

    def run(deed: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return deed()
        except Refused as refused:
            return refused
        finally:
            connection.close()

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(run, deeds))


def tick(name: str, *, kernel: FakeKernel) -> None:
    reconcile_node(
        node_name=name, kernel=kernel, guard=OffGuard(), memory=NodeMemory(), identity=own_identity()
    )
