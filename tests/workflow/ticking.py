"""The worker of a node in memory, for tests in which it ticks; and what happens to its kernel meanwhile."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone

from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard_fake import FakeGuard
from balancer.models import Job, Node
from balancer.workflow.confirming import Checks, no_checks
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.nodes import reconcile_node
from balancer.workflow.rehearsing import Rehearse
from tests.cast import Site


@dataclass
class Worker:
    """A worker process of a node, with a clock that moves when it is told to."""

    site: Site
    name: str = "lb1"
    now: datetime = field(default_factory=timezone.now)
    memory: NodeMemory = field(default_factory=NodeMemory)
    confirm: Checks = no_checks
    rehearse: Rehearse | None = None
    wakes: list[float] = field(default_factory=list)
    """For when it was asked to tick again, in seconds from then on."""

    def tick(self, after: float = 5) -> None:
        self.now += timedelta(seconds=after)
        reconcile_node(
            node_name=self.name,
            kernel=self.site.kernels[self.name],
            guard=self.guard,
            memory=self.memory,
            identity="test:1:1",
            rehearse=self.rehearse,
            confirm=self.confirm,
            clock=lambda: self.now,
            pause=self.wait,
            wake=self.wakes.append,
        )

    def wait(self, seconds: float) -> None:
        self.guard.advance(seconds)

    def restart(self) -> None:
        self.memory = NodeMemory()

    @property
    def guard(self) -> FakeGuard:
        return self.site.guard(self.name)

    @property
    def node(self) -> Node:
        return Node.objects.get(name=self.name)


def reboot(site: Site, name: str = "lb1") -> None:
    site.kernels[name] = FakeKernel()


def damage(site: Site, name: str = "lb1") -> None:
    chains = site.kernels[name].snapshot.table("nat").chains
    chains["LB-S-web"] = chains["LB-S-web"][1:]


def converged(site: Site) -> list[str]:
    return list(Job.objects.filter(reason="converge").values_list("state", flat=True))
