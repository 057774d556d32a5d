"""kill -9 of the worker at any step between arming and confirming, and what the next worker makes of it.

The guard's files and its loop are the real ones, kernel and clock are in memory. A kill is an exception that
nothing catches: transactions are rolled back and locks are free again, as after a kill. The stack tests kill
real processes at some of these points. Each run takes every fourth point, from a first one that is drawn; a
campaign takes them all.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from balancer.kernel import guard_files
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import FileGuard
from balancer.kernel.guard_state import GuardDirectory
from balancer.models import Job, Node
from balancer.ruleset.parse import parse_ruleset
from balancer.workflow import confirming, jobs, writing
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.nodes import reconcile_node
from balancer.workflow.revisions import live_revision
from tests.cast import Site
from tests.documents import service_data
from tests.kernel.guards import Machine

STEPS: tuple[tuple[Any, str], ...] = (
    (jobs, "note"),
    (writing, "note"),
    (jobs, "arm_guard"),
    (jobs, "settle"),
    (confirming, "note"),
    (confirming, "make_probes"),
    (confirming, "confirm"),
    (confirming, "record"),
    (FakeKernel, "sync"),
    (FakeKernel, "_commit"),
    (FakeKernel, "compare"),
    (FileGuard, "require_armed"),
    (FileGuard, "_wait_until_heard"),
    (GuardDirectory, "write_confirmed"),
    (GuardDirectory, "write_pending"),
    (GuardDirectory, "drop_pending"),
    (guard_files, "_write_new"),
    (guard_files, "sync_directory"),
)
"""The worker dies before and after each call of these."""
POINTS_MAX = 200
EVERY = 1 if "LBADMIN_CAMPAIGN" in os.environ else 4


class Killed(BaseException):
    pass


class Killer:
    def __init__(self, *, at: int) -> None:
        self.at, self.passed, self.where = at, 0, ""

    @property
    def has_killed(self) -> bool:
        return bool(self.where)

    def point(self, where: str) -> None:
        if self.passed == self.at and not self.has_killed:
            self.where = where
            raise Killed
        self.passed += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        patch = pytest.MonkeyPatch()
        for owner, name in STEPS:
            patch.setattr(owner, name, self._wrapped(getattr(owner, name), name))
        try:
            yield
        finally:
            patch.undo()

    def _wrapped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.point(f"before {name}")
            result = function(*args, **kwargs)
            self.point(f"after {name}")
            return result

        return call


class Tables:
    """A node with a guard on a disk; its worker may be killed."""

    def __init__(self, *, site: Site, machine: Machine) -> None:
        self.site, self.machine, self.later = site, machine, timedelta()

    @property
    def guard(self) -> FileGuard:
        return self.machine.worker_side()

    def run(self, job: Job) -> None:
        self.site.run(job, kernel=self.machine.kernel, guard=self.guard, pause=self.machine.advance)

    def tick(self) -> None:
        """Of a worker that has just been started."""
        self.later += timedelta(seconds=5)
        reconcile_node(
            node_name="lb1",
            kernel=self.machine.kernel,
            guard=self.guard,
            memory=NodeMemory(),
            identity="test:1:1",
            clock=lambda: timezone.now() + self.later,
            pause=self.machine.advance,
        )


@pytest.fixture
def node(site: Site, tmp_path: Path) -> Tables:
    Node.objects.filter(name="lb2").delete()
    machine = Machine(path=tmp_path / "guard")
    machine.start()
    found = Tables(site=site, machine=machine)
    found.run(site.start(service_data("web")).jobs.get())
    assert live_revision(site.cluster).number == 1
    return found


@pytest.mark.parametrize("away", [1.0, 500.0], ids=["back in time", "back after the deadline"])
def test_a_worker_killed_at_any_step_leaves_old_or_new_and_rows_that_say_which(
    node: Tables, away: float
) -> None:
    site, machine = node.site, node.machine
    outcomes = set()
    for at in range(random.randrange(EVERY), POINTS_MAX, EVERY):
        old = live_revision(site.cluster)
        job = site.start(service_data("web", port=100 + at)).jobs.get()
        killer = Killer(at=at)
        with killer.watching(), suppress(Killed):
            node.run(job)
        machine.advance(away)
        if away > 100:
            # Killed between the commits of two tables it may carry half of each until the guard comes.
            whole = carries(machine, old) or carries(machine, job.revision)
            assert whole, f"killed {killer.where}, the node carries neither the old nor the new rules"
        for _ in range(6):
            node.tick()
            machine.advance(1)

        job.refresh_from_db()
        live = live_revision(site.cluster)
        told = f"killed {killer.where}: {job.state} {job.deployment.state} {job.error}"
        assert job.state in {"succeeded", "failed"}, told
        assert live == (job.revision if job.state == "succeeded" else old), told
        assert carries(machine, live), told
        assert Node.objects.get().carried_revision == live, told
        assert not Job.objects.filter(state__in=["queued", "running", "unconfirmed"]).exists(), told
        confirmed = node.guard.confirmed()
        assert (confirmed and confirmed.revision, node.guard.pending()) == (live.number, None), told
        outcomes.add(job.state)
        if not killer.has_killed:
            break
    assert not killer.has_killed, "there are more steps than were tried"
    assert outcomes == ({"succeeded"} if away < 100 else {"succeeded", "failed"})


def carries(machine: Machine, revision: Any) -> bool:
    return all(
        machine.kernel.compare(ruleset=parse_ruleset(text, family=family)).in_sync
        for family, text in revision.rulesets.items()
    )
