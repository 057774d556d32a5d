"""A backend that comes back rises to its weight, on each node by itself."""

from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from balancer.domain.types import BackendState
from balancer.kernel.base import Receipt
from balancer.models import Job, Node, NodeBalance, WeightMove
from balancer.workflow.balancing import look_soon, wake_for_next_step
from balancer.workflow.overrides import lift_override
from tests.cast import Site
from tests.workflow.deeds import operate, run_jobs
from tests.workflow.moving import (
    FOUR,
    ONE,
    THREE,
    TWO,
    Balancer,
    Watched,
    carried,
    kernel,
    shares,
    ticks,
    watched_worker,
    web,
)
from tests.workflow.ticking import converged


@pytest.fixture
def worker(site: Site) -> Iterator[Balancer]:
    yield from watched_worker(site)


@pytest.fixture
def slow(worker: Balancer) -> Balancer:
    """One of four backends drains, and has 80 seconds to rise when it comes back."""
    worker.site.deploy(web("draining", *["enabled"] * 3, scheduler="random", slow_start=80))
    worker.tick()
    kernel(worker).writes.clear()
    return worker


def bring_back(slow: Balancer) -> None:
    slow.site.deploy(web(scheduler="random", slow_start=80))
    Job.objects.update(finished_at=slow.now)
    row = NodeBalance.objects.get(node=slow.node)
    row.services["web"]["ramps"][ONE]["since"] = slow.now.isoformat()
    row.save()


def test_a_backend_that_comes_back_begins_with_an_eighth_and_rises(slow: Balancer) -> None:
    bring_back(slow)
    assert shares(slow)[ONE] == Fraction(1, 25)
    assert carried(slow).approved.services[0].backends[0].weight == 1
    seen = []

    for _ in range(18):
        slow.tick()
        seen.append(shares(slow)[ONE])

    steps = [Fraction(step, step + 24) for step in range(1, 9)]
    assert seen == sorted(seen)
    assert set(seen) == set(steps)
    assert seen[-1] == Fraction(1, 4)
    assert WeightMove.objects.filter(node=slow.node, backend=ONE).count() == 7
    assert converged(slow.site) == []


def test_a_short_slow_start_commits_at_most_once_a_second(slow: Balancer) -> None:
    slow.site.deploy(web("draining", *["enabled"] * 3, scheduler="random", slow_start=2))
    slow.site.deploy(web(scheduler="random", slow_start=2))
    row = NodeBalance.objects.get(node=slow.node)
    row.services["web"]["ramps"][ONE]["since"] = slow.now.isoformat()
    row.save()
    kernel(slow).writes.clear()

    ticks(slow, 4, every=0.25)

    times = kernel(slow).writes
    assert len(times) >= 2
    assert all(after - before >= 1 for before, after in pairwise(times))
    assert shares(slow)[ONE] == Fraction(1, 4)


def rise(worker: Balancer, *, over: int, seconds: float) -> list[Fraction]:
    """The shares of the first backend, tick by tick, where the worker is woken when it asks for that."""
    worker.site.deploy(web(scheduler="random", slow_start=over))
    Job.objects.update(finished_at=worker.now)
    row = NodeBalance.objects.get(node=worker.node)
    row.services["web"]["ramps"][ONE]["since"] = worker.now.isoformat()
    row.save()
    end, usual = worker.now + timedelta(seconds=seconds), worker.now + timedelta(seconds=5)
    memory, seen = worker.memory.balancing, []
    look_soon(node=worker.node, memory=memory, now=worker.now)
    wake_for_next_step(memory=memory, wake=worker.wakes.append, now=worker.now)
    due = [worker.now + timedelta(seconds=wake) for wake in worker.wakes]
    while worker.now < end:
        worker.wakes.clear()
        worker.tick(after=(min([*due, usual]) - worker.now).total_seconds())
        usual += timedelta(seconds=5) if usual <= worker.now else timedelta()
        due = [at for at in due if at > worker.now]
        due += [worker.now + timedelta(seconds=wake) for wake in worker.wakes]
        assert len(due) <= 1, "one wake for each step"
        seen.append(shares(worker)[ONE])
    return seen


STEPS = [Fraction(step, step + 24) for step in range(1, 9)]


@pytest.mark.parametrize("over", [8, 30])
def test_every_step_of_a_short_slow_start_is_taken_and_it_ends_at_the_full_weight(
    slow: Balancer, over: int
) -> None:
    seen = rise(slow, over=over, seconds=over + 10)

    assert seen == sorted(seen)
    assert sorted(set(seen)) == STEPS
    assert seen[-1] == Fraction(1, 4)
    times = kernel(slow).writes
    assert all(after - before >= 1 for before, after in pairwise(times))
    assert memory_is_at_rest(slow)


def memory_is_at_rest(worker: Balancer) -> bool:
    """Nobody rises, so that nobody needs to be woken."""
    return worker.memory.balancing.next_step is None and not worker.wakes


def test_a_node_that_is_slow_to_write_rests_until_the_next_step_and_not_for_longer(
    slow: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An act takes half a second, and else 20 times as long would be a rest of ten."""
    sync = kernel(slow).sync

    def write(**options: Any) -> Receipt:
        slow.now += timedelta(seconds=0.5)
        return sync(**options)

    monkeypatch.setattr(kernel(slow), "sync", write)
    assert sorted(set(rise(slow, over=20, seconds=30))) == STEPS


def test_a_ramp_survives_a_restart_of_the_worker_and_of_the_machine(slow: Balancer) -> None:
    bring_back(slow)
    ticks(slow, 35)
    assert shares(slow)[ONE] == Fraction(4, 28)
    slow.restart()
    slow.site.kernels["lb1"], slow.may_drift = Watched(slow), True

    slow.tick(after=1)

    assert shares(slow)[ONE] == Fraction(4, 28), "what was in force comes back first"
    slow.tick(after=20)
    assert shares(slow)[ONE] == Fraction(6, 30)


def test_an_override_that_is_lifted_brings_a_backend_back_slowly(slow: Balancer) -> None:
    override = operate(slow.site, 4, state=BackendState.DISABLED)
    run_jobs(slow.site)
    assert set(shares(slow)) == {THREE, FOUR}

    lift_override(actor=slow.site.operator, override=override)
    run_jobs(slow.site)

    assert shares(slow) == {TWO: Fraction(1, 17), THREE: Fraction(8, 17), FOUR: Fraction(8, 17)}


def test_a_ramp_goes_on_while_the_roll_out_is_at_the_other_nodes(slow: Balancer) -> None:
    deployment = slow.site.start(web(scheduler="random", slow_start=80))
    slow.site.run(deployment.jobs.get(node__name="lb1"))
    assert shares(slow)[ONE] == Fraction(1, 25)

    ticks(slow, 100)

    deployment.refresh_from_db()
    assert deployment.state == "running"
    assert shares(slow)[ONE] == Fraction(1, 4)


def test_a_service_that_is_new_ramps_nobody(slow: Balancer) -> None:
    slow.site.deploy(web(scheduler="random", slow_start=80) | {"name": "mail", "port": 25})

    assert "mail" not in carried(slow).weights
    assert slow.node.carried_weights == carried(slow).weights_digest


def test_a_node_that_is_new_ramps_nobody(slow: Balancer) -> None:
    bring_back(slow)
    NodeBalance.objects.filter(node__name="lb1").delete()
    Node.objects.filter(name="lb1").update(carried_revision=None, carried_weights="")
    slow.restart()
    slow.site.kernels["lb1"] = Watched(slow)

    ticks(slow, 10)

    assert shares(slow)[ONE] == Fraction(1, 4)
