"""A balancer with a client and backends around it, in namespaces of its own."""

import pytest

from tests.kernel.conftest import flavour, namespace, wires
from tests.kernel.machine import Wires
from tests.probes.balancer import Balancer

__all__ = ["flavour", "namespace", "wires"]


@pytest.fixture
def balancer(wires: Wires) -> Balancer:
    return Balancer(wires)
