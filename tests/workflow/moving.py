"""A node that moves weights itself, for its tests: its worker, its kernel in memory, what it carries."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from balancer.kernel.base import Loads, Receipt
from balancer.kernel.fake import FakeKernel
from balancer.models import AuditEvent
from balancer.ruleset.schedulers import promised_shares
from balancer.workflow.effective import Effective, effective_of
from balancer.workflow.revisions import compile_rulesets
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.workflow.ticking import Worker

ONE, TWO, THREE, FOUR = (f"10.0.0.{last}:80" for last in range(3, 7))
UNEVEN = {ONE: 300, TWO: 100, THREE: 100, FOUR: 100}


@dataclass
class Balancer(Worker):
    """Of a node that moves weights itself; nobody is to be told of drift, unless a test says so."""

    may_drift: bool = False


@dataclass
class Watched(FakeKernel):
    """A kernel in memory that notes when it was written to, and how often connections were counted."""

    worker: Balancer
    writes: list[float] = field(default_factory=list)
    counts: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.begun = self.worker.now

    def sync(self, **options: Any) -> Receipt:
        receipt = super().sync(**options)
        if receipt.changed:
            self.writes.append((self.worker.now - self.begun).total_seconds())
        return receipt

    def count_loads(self, **options: Any) -> Loads:
        self.counts += 1
        return super().count_loads(**options)


def web(*states: str, scheduler: str = "least-connections", **fields: Any) -> dict[str, Any]:
    backends = [
        backend_data(f"10.0.0.{3 + i}", state=state) for i, state in enumerate(states or ("enabled",) * 4)
    ]
    return service_data("web", scheduler=scheduler, **{"backends": backends, **fields})


def watched_worker(site: Site) -> Iterator[Balancer]:
    """Of lb1, whose kernel is watched; the service is live and nothing has moved. For a fixture."""
    worker = Balancer(site)
    site.kernels["lb1"] = Watched(worker)
    site.deploy(web())
    worker.tick(after=0)
    kernel(worker).writes.clear()
    kernel(worker).counts = 0
    yield worker
    assert AuditEvent.objects.filter(action="node.drifted").exists() is worker.may_drift


def kernel(worker: Balancer) -> Watched:
    found = worker.site.kernels["lb1"]
    assert isinstance(found, Watched)
    return found


def carried(worker: Balancer) -> Effective:
    node = worker.node
    assert node.carried_revision is not None
    return effective_of(cluster=node.cluster, revision=node.carried_revision, node=node)


def shares(worker: Balancer) -> dict[str, Fraction]:
    """Of the service web, as the node should carry it; the kernel must hold just that."""
    found = carried(worker)
    kernel = worker.site.kernels["lb1"]
    assert all(
        kernel.compare(ruleset=ruleset).in_sync for ruleset in compile_rulesets(found.document).values()
    )
    assert worker.node.carried_weights == found.weights_digest
    return dict(promised_shares(next(s for s in found.document.services if s.name == "web")))


def ticks(worker: Balancer, seconds: float, every: float = 5) -> None:
    for _ in range(int(seconds / every)):
        worker.tick(after=every)


def move(worker: Balancer, **loads: int) -> None:
    """Let the node move its weights once, away from the first backend."""
    kernel(worker).loads = {"web": loads or UNEVEN}
    ticks(worker, 20)
    assert shares(worker)[ONE] < Fraction(1, 4)
