"""A backend that comes back rises to its weight, on each node by itself."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest

from balancer.domain.types import BackendState
from balancer.models import Job, Node, NodeBalance, WeightMove
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
