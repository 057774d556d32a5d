"""Rollback drills with real processes and kernels: proven, refused without a guard, loud with a stuck one."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from balancer.kernel.base import Flavour
from balancer.models import Job, Node
from balancer.workflow.drills import start_drill
from balancer.workflow.errors import Refused
from tests.cast import Site
from tests.documents import service_data
from tests.kernel.machine import Namespace, save
from tests.stack.machinery import Process, Stack, eventually
from tests.stack.site import LEGACY, NFT, events, make_site, wait_for_end, wait_for_worker
from tests.stopwatch import Stopwatch

LATE_MAX = 5.0
CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ


@contextmanager
def standing_still(process: Process) -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


class Balancer:
    """lb1 with a service live, and what its kernel holds."""

    def __init__(self, *, stack: Stack, namespace: Namespace, env: dict[str, str]) -> None:
        self.site, self.flavour, self._inside = make_site("lb1"), Flavour(env["LBADMIN_FLAVOUR"]), namespace
        stack.worker("lb1", inside=namespace, **env)
        stack.beat()
        wait_for_worker("lb1", stack=stack)
        assert wait_for_end(self.site.start(service_data("web"))).state == "succeeded"
        eventually(lambda: self.node.guard.get("alive") and self.node.in_sync, what="a look at the node")
        self.before = self.rules()

    @property
    def node(self) -> Node:
        return Node.objects.select_related("cluster").get(name="lb1")

    def rules(self) -> str:
        with self._inside.entered():
            return save(self.flavour)

    def drill(self, site: Site) -> Job:
        """One that has put its marker into the kernel."""
        job = start_drill(actor=site.operator, node=self.node)
        eventually(lambda: f"LB-drill-{job.pk.hex[:8]}" in self.rules(), what="the marker")
        return job

    def wait_for(self, job: Job) -> Job:
        def ended() -> bool:
            job.refresh_from_db()
            return job.finished_at is not None

        eventually(ended, what="the end of the drill")
        return job


@pytest.mark.parametrize("env", [LEGACY, NFT], ids=["legacy", "nft"])
def test_a_node_proves_that_it_goes_back_in_time_and_its_rules_are_the_same_text(
    stack: Stack, namespace: Namespace, env: dict[str, str]
) -> None:
    balancer = Balancer(stack=stack, namespace=namespace, env=env)

    watch = Stopwatch()
    job = balancer.wait_for(balancer.drill(balancer.site))

    node = balancer.node
    assert job.state == "succeeded", job.error
    assert balancer.rules() == balancer.before
    assert job.receipt["ipv4"]["tables_committed"] == ["filter"], "round-robin counts on"
    assert (node.drill_flavour, node.drill_error) == (balancer.flavour, "")
    assert node.drill_late is not None
    assert 0 <= node.drill_late <= LATE_MAX + watch.stalled
    assert events("guard.restored") == []
    print(f"{balancer.flavour}: back {node.drill_late * 1000:.0f} ms after the deadline")


@pytest.mark.parametrize("env", [LEGACY, NFT] if CAMPAIGN else [NFT], ids=lambda env: env["LBADMIN_FLAVOUR"])
def test_a_guard_that_is_stuck_fails_the_drill_and_one_that_is_gone_lets_none_begin(
    stack: Stack, namespace: Namespace, env: dict[str, str]
) -> None:
    balancer = Balancer(stack=stack, namespace=namespace, env=env)

    job = balancer.drill(balancer.site)
    with standing_still(stack.guards["lb1"]):
        balancer.wait_for(job)
        assert job.state == "failed"
        assert "had not put the rules back" in job.error
        eventually(lambda: balancer.rules() == balancer.before, what="the way back without the guard")
    assert balancer.node.drill_error == job.error
    assert len(events("drill.failed")) == 1
    eventually(
        lambda: Job.objects.filter(reason="converge", state="succeeded").exists(), what="the convergence"
    )
    stack.guards["lb1"].kill()
    eventually(lambda: balancer.node.guard["alive"] is False, what="the news of the guard's end")
    with pytest.raises(Refused, match="nothing would put the old rules back") as refused:
        start_drill(actor=balancer.site.operator, node=balancer.node)
    assert refused.value.code == "no-guard"
    assert balancer.rules() == balancer.before
    assert events("guard.restored") == []
