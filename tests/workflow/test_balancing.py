"""Weights that a node moves itself: when, how often, and what outlives a restart."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

import pytest

from balancer.domain.types import Service
from balancer.kernel.base import Loads
from balancer.models import AuditEvent, Job, Node, WeightMove
from balancer.workflow import balancing
from balancer.workflow.revisions import live_revision, why_not_genuine
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.moving import (
    FOUR,
    ONE,
    THREE,
    TWO,
    UNEVEN,
    Balancer,
    Watched,
    kernel,
    move,
    shares,
    ticks,
    watched_worker,
    web,
)
from tests.workflow.ticking import Worker, converged


@pytest.fixture
def worker(site: Site) -> Iterator[Balancer]:
    yield from watched_worker(site)


def test_a_node_moves_weights_towards_equal_connections_and_says_why(worker: Balancer) -> None:
    kernel(worker).loads = {"web": UNEVEN}

    ticks(worker, 20)

    share = shares(worker)
    assert share[ONE] < Fraction(1, 4) < share[TWO]
    first = WeightMove.objects.order_by("pk").first()
    assert first is not None
    assert (first.node, first.service_name, first.backend) == (worker.node, "web", ONE)
    assert first.why == f"{ONE} has 300 of 600 connections, its weight says 150"
    assert (first.share_before, first.share_after < 0.25) == (0.25, True)
    assert worker.node.in_sync


def test_it_is_no_job_and_no_event_of_the_history_and_nothing_that_is_approved_moves(
    worker: Balancer,
) -> None:
    live = live_revision(worker.site.cluster)
    kept = live.digest, live.document, live.rulesets
    jobs, events = Job.objects.count(), AuditEvent.objects.count()

    move(worker)
    ticks(worker, 60)

    assert (Job.objects.count(), AuditEvent.objects.count()) == (jobs, events)
    live.refresh_from_db()
    assert (live.digest, live.document, live.rulesets) == kept
    assert why_not_genuine(live) is None
    assert worker.guard.confirmed().rulesets["ipv4"] == live.rulesets["ipv4"], "the way back is as approved"


def test_at_most_one_look_and_one_commit_in_ten_seconds(worker: Balancer) -> None:
    kernel(worker).loads = {"web": UNEVEN}

    ticks(worker, 60, every=1)

    times = kernel(worker).writes
    assert len(times) >= 3
    assert all(after - before >= 10 for before, after in pairwise(times))
    assert kernel(worker).counts <= 7


def test_a_service_that_is_balanced_already_is_counted_and_not_written(worker: Balancer) -> None:
    kernel(worker).loads = {"web": {ONE: 101, TWO: 99, THREE: 100, FOUR: 100}}

    ticks(worker, 60)

    assert kernel(worker).counts >= 5
    assert kernel(worker).writes == []
    assert not WeightMove.objects.exists()


def test_services_at_addresses_of_their_own_are_told_apart_when_connections_are_counted(
    worker: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.site.deploy(
        web(),
        service_data("near", address="203.0.113.1"),
        service_data("off", port=81, enabled=False),
        service_data("far", protocol="udp"),
    )
    asked: list[list[str]] = []

    def count(*, services: Sequence[Service]) -> Loads:
        asked.append([service.name for service in services])
        return {}

    monkeypatch.setattr(kernel(worker), "count_loads", count)
    ticks(worker, 20)
    assert asked[0] == ["near", "web"]


def test_a_cluster_without_such_services_costs_no_count(worker: Balancer) -> None:
    worker.site.deploy(web(scheduler="round-robin"))
    kernel(worker).writes.clear()

    kernel(worker).loads = {"web": UNEVEN}
    ticks(worker, 60)

    assert (kernel(worker).counts, kernel(worker).writes) == (0, [])


def test_a_worker_that_starts_again_goes_on_where_the_other_one_was(worker: Balancer) -> None:
    move(worker)
    before, writes = shares(worker), len(kernel(worker).writes)
    worker.restart()

    worker.tick(after=1)

    assert shares(worker) == before
    assert len(kernel(worker).writes) == writes, "the limit of one commit in ten seconds holds on"
    assert converged(worker.site) == []


def test_a_machine_that_was_started_again_gets_the_weights_that_it_had(worker: Balancer) -> None:
    move(worker)
    before = shares(worker)
    worker.restart()
    worker.site.kernels["lb1"], worker.may_drift = Watched(worker), True

    worker.tick(after=1)

    assert converged(worker.site) == ["succeeded"]
    assert shares(worker) == before


def test_each_node_moves_its_own(worker: Balancer) -> None:
    move(worker)

    other = Worker(worker.site, "lb2", now=worker.now)
    ticks(other, 30)

    assert other.node.carried_weights == ""
    assert worker.site.own_rules("lb1") != worker.site.own_rules("lb2")
    assert other.node.in_sync
    assert converged(worker.site) == []


def test_the_log_is_kept_short(worker: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "MOVES_KEPT", 5)
    other = WeightMove.objects.create(
        node=Node.objects.get(name="lb2"),
        at=worker.now,
        service_name="web",
        backend=ONE,
        share_before=0.1,
        share_after=0.2,
        why="x",
    )
    kernel(worker).loads = {"web": UNEVEN}

    ticks(worker, 60)

    assert WeightMove.objects.filter(node=worker.node).count() == 5
    assert WeightMove.objects.filter(pk=other.pk).exists()
