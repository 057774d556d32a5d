"""Weights that a node moves itself: when, how often, what outlives what, and that nobody calls it drift."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from balancer.domain.overrides import digest_overrides
from balancer.domain.types import BackendState
from balancer.kernel.base import Busy, Loads, OutcomeUnknown, Receipt, Rejected
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import Candidate
from balancer.models import AuditEvent, Cluster, Job, Node, NodeBalance, WeightMove
from balancer.ruleset.schedulers import promised_shares
from balancer.workflow import balancing
from balancer.workflow.effective import Effective, effective_of, effective_of_job, overrides_in_force
from balancer.workflow.evidence import evidence_of
from balancer.workflow.overrides import lift_override
from balancer.workflow.revisions import compile_rulesets, live_revision, render_rulesets, why_not_genuine
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.workflow.test_nodes import Worker, converged
from tests.workflow.test_overrides import operate, run_jobs

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


@pytest.fixture
def worker(site: Site) -> Iterator[Balancer]:
    """Of lb1, whose kernel is watched; the service is live and nothing has moved."""
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


def test_a_deployment_in_between_writes_the_weights_in_force(worker: Balancer) -> None:
    move(worker)
    before = shares(worker)
    kernel(worker).loads = {}

    revision = worker.site.deploy(service_data("mail", port=25))

    assert shares(worker) == before
    job = revision.deployments.get().jobs.get(node__name="lb1")
    written = effective_of_job(job)
    assert written.weights == carried(worker).weights != {}
    assert render_rulesets(written.approved) == revision.rulesets
    assert '"weights"' in evidence_of(job.deployment)
    assert worker.guard.confirmed().rulesets["ipv4"] == revision.rulesets["ipv4"], (
        "the way back is as declared"
    )
    ticks(worker, 30)
    assert converged(worker.site) == []


def test_a_node_moves_nothing_while_a_job_of_it_waits_and_goes_on_afterwards(worker: Balancer) -> None:
    deployment = worker.site.start(service_data("mail", port=25))
    kernel(worker).loads = {"web": UNEVEN}
    Job.objects.filter(node__name="lb1").update(position=2)
    Job.objects.filter(node__name="lb2").update(position=1)

    kernel(worker).counts = 0
    ticks(worker, 30)
    assert (kernel(worker).writes, kernel(worker).counts) == ([], 0)

    worker.site.finish(deployment)
    kernel(worker).writes.clear()
    ticks(worker, 30)
    assert len(kernel(worker).writes) >= 1


def test_a_node_moves_nothing_while_an_apply_on_it_waits_for_its_confirm(worker: Balancer) -> None:
    Cluster.objects.update(confirm="manual")
    deployment = worker.site.start(service_data("mail", port=25))
    job = deployment.jobs.get(node__name="lb1")
    worker.site.run(job)
    kernel(worker).loads, kernel(worker).writes[:] = {"web": UNEVEN}, []

    ticks(worker, 60)

    job.refresh_from_db()
    assert (job.state, kernel(worker).writes) == ("unconfirmed", [])


def test_what_a_guard_puts_back_is_as_declared_and_the_node_moves_on_from_where_it_was(
    worker: Balancer,
) -> None:
    move(worker)
    before = shares(worker)
    Cluster.objects.update(confirm="manual")
    deployment = worker.site.start(service_data("mail", port=25))
    worker.site.run(deployment.jobs.get(node__name="lb1"))
    kernel(worker).loads = {}

    worker.guard.advance(600)
    put_back = render_rulesets(carried(worker).approved)
    assert put_back == live_revision(worker.site.cluster).rulesets
    worker.tick()

    assert converged(worker.site) == ["succeeded"]
    assert shares(worker) == before
    assert worker.node.in_sync


def test_drift_is_left_to_people_and_not_mended_by_a_move(worker: Balancer) -> None:
    chains = kernel(worker).snapshot.table("nat").chains
    chains["LB-S-web"] = chains["LB-S-web"][1:]
    kernel(worker).loads = {"web": UNEVEN}

    worker.tick(after=20)
    ticks(worker, 40)

    assert not worker.node.in_sync
    assert kernel(worker).writes == []
    worker.may_drift = True
    chains["LB-S-web"] = compile_chain(worker)
    ticks(worker, 40)
    assert worker.node.in_sync
    assert len(kernel(worker).writes) >= 1


def compile_chain(worker: Balancer) -> tuple[str, ...]:
    other = FakeKernel()
    document = carried(worker).document
    for ruleset in compile_rulesets(document).values():
        other.sync(ruleset=ruleset, document=document)
    return other.snapshot.table("nat").chains["LB-S-web"]


@pytest.mark.parametrize("error", [Rejected("no"), Busy("somebody else writes")], ids=["rejected", "busy"])
def test_a_write_that_fails_leaves_everything_as_it_was_and_is_tried_again(
    worker: Balancer, error: Exception
) -> None:
    kernel(worker).loads = {"web": UNEVEN}
    kernel(worker).fail_next = error

    ticks(worker, 20)
    assert shares(worker)[ONE] == Fraction(1, 4)
    assert worker.node.in_sync
    assert not WeightMove.objects.exists()

    ticks(worker, 90, every=15)
    assert shares(worker)[ONE] < Fraction(1, 4)
    assert converged(worker.site) == []


def test_a_write_whose_end_nobody_knows_is_followed_by_a_convergence(worker: Balancer) -> None:
    kernel(worker).loads = {"web": UNEVEN}
    kernel(worker).fail_next = OutcomeUnknown("nobody knows")

    ticks(worker, 20)

    assert converged(worker.site) == ["succeeded"]
    assert shares(worker)[ONE] < Fraction(1, 4)


@pytest.mark.parametrize("written", [True, False])
def test_a_worker_that_is_killed_at_a_move_leaves_what_the_next_one_mends(
    worker: Balancer, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(**options: Any) -> Receipt:
        if written:
            FakeKernel.sync(kernel(worker), **options)
        raise Killed

    kernel(worker).loads = {"web": UNEVEN}
    with monkeypatch.context() as patch:
        patch.setattr(kernel(worker), "sync", die)
        with pytest.raises(Killed):
            ticks(worker, 20)
    worker.restart()

    worker.tick()

    assert shares(worker)[ONE] < Fraction(1, 4)
    assert worker.node.in_sync
    assert converged(worker.site) == ["succeeded"]


def test_an_override_is_the_base_and_is_never_undone(worker: Balancer) -> None:
    Cluster.objects.update(override_weight_percent=300, override_keep=1)
    move(worker)
    kernel(worker).loads = {}
    override = operate(worker.site, 4, state=BackendState.DRAINING)
    run_jobs(worker.site)

    share = shares(worker)
    assert TWO not in share
    assert share[ONE] < share[THREE]
    kernel(worker).loads = {"web": {TWO: 0, ONE: 100, THREE: 100, FOUR: 100}}
    ticks(worker, 40)
    assert TWO not in shares(worker)
    assert worker.node.carried_overrides == digest_overrides(overrides_in_force(worker.site.cluster))

    lift_override(actor=worker.site.operator, override=override)
    run_jobs(worker.site)
    assert shares(worker)[TWO] > 0
    assert converged(worker.site).count("failed") == 0


def test_an_overridden_weight_is_what_connections_are_balanced_to(worker: Balancer) -> None:
    Cluster.objects.update(override_weight_percent=300)
    operate(worker.site, 3, weight=3)
    run_jobs(worker.site)
    kernel(worker).writes.clear()
    kernel(worker).loads = {"web": {ONE: 300, TWO: 100, THREE: 100, FOUR: 100}}

    ticks(worker, 60)

    assert shares(worker)[ONE] == Fraction(1, 2)
    assert kernel(worker).writes == []


def test_a_drill_proves_the_way_back_and_the_weights_return(worker: Balancer) -> None:
    move(worker)
    Cluster.objects.update(drill_hours=1)

    ticks(worker, 15)

    drill = Job.objects.get(reason="drill", node__name="lb1")
    assert (drill.state, drill.error) == ("succeeded", "")
    assert shares(worker)[ONE] < Fraction(1, 4)
    assert converged(worker.site) == ["succeeded"]
    assert worker.node.drilled_at is not None


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


def test_nothing_is_written_under_a_guard_that_stands_ready_to_go_back(worker: Balancer) -> None:
    confirmed = worker.guard.confirmed()
    candidate = Candidate(job="", cluster="edge", revision=7, digest="x")
    token = worker.guard.arm(confirmed=confirmed, candidate=candidate, seconds=600)
    kernel(worker).loads = {"web": UNEVEN}

    ticks(worker, 90, every=15)
    assert (kernel(worker).writes, shares(worker)[ONE]) == ([], Fraction(1, 4))

    worker.guard.disarm(token=token)
    ticks(worker, 90, every=15)
    assert shares(worker)[ONE] < Fraction(1, 4)
