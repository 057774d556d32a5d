"""Rollback drills whose worker is killed."""

from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import FileGuard
from balancer.models import Job, Node
from balancer.workflow import drilling
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.nodes import reconcile_node
from balancer.workflow.revisions import live_revision
from tests.cast import Site
from tests.documents import service_data
from tests.kernel.guards import Machine
from tests.workflow.deeds import events
from tests.workflow.drilling import node_of, start
from tests.workflow.test_crashes import carries

STEPS: tuple[tuple[Any, str], ...] = (
    (drilling, "_require_as_it_should"),
    (drilling, "_arm"),
    (FileGuard, "_wait_until_heard"),
    (FakeKernel, "sync"),
    (drilling, "note"),
    (drilling, "_await_restore"),
    (drilling, "_judge"),
    (drilling, "record"),
)


@pytest.fixture
def machine(site: Site, tmp_path: Path) -> Machine:
    """lb1 alone, with revision 1 and a guard whose files and loop are the real ones."""
    Node.objects.filter(name="lb2").delete()
    found = Machine(path=tmp_path / "guard")
    found.start()
    run_on(found, site, site.start(service_data("web")).jobs.get())
    return found


def run_on(machine: Machine, site: Site, job: Job) -> None:
    site.run(job, kernel=machine.kernel, guard=machine.worker_side(), pause=machine.advance)


def tick_on(machine: Machine, *, later: float) -> None:
    """Of a worker that has just been started."""
    reconcile_node(
        node_name="lb1",
        kernel=machine.kernel,
        guard=machine.worker_side(),
        memory=NodeMemory(),
        identity="test:1:1",
        clock=lambda: timezone.now() + timedelta(seconds=later),
        pause=machine.advance,
    )


def kill_at(machine: Machine, site: Site, job: Job, *, step: tuple[Any, str], side: str) -> None:
    owner, name = step
    original = getattr(owner, name)

    def die(*arguments: Any, **options: Any) -> Any:
        if side == "after":
            original(*arguments, **options)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(KeyboardInterrupt):
            run_on(machine, site, job)


@pytest.mark.parametrize("away", [0, 20], ids=["back in time", "back after the deadline"])
def test_a_worker_killed_at_any_step_leaves_no_marker_and_a_drill_that_is_proven(
    site: Site, machine: Machine, away: int
) -> None:
    live, later = live_revision(site.cluster), 0.0
    for step, side in product(STEPS, ("before", "after")):
        told = f"killed {side} {step[1]}"
        Node.objects.update(guard={"alive": True}, in_sync=True, drilled_at=None)
        job = start(site)
        kill_at(machine, site, job, step=step, side=side)
        for _ in range(away):
            machine.advance(1)
        for _ in range(3):
            later += 5
            tick_on(machine, later=later)

        job.refresh_from_db()
        assert job.state == "succeeded", f"{told}: {job.error}"
        node = node_of(site)
        assert (node.drilled_at is not None, node.carried_revision) == (True, live), told
        assert carries(machine, live), told
        assert machine.worker_side().pending() is None, told
    assert events("guard.restored") == []
    assert events("drill.failed") == []
