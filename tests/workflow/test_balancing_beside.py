"""Weights that a node moves itself, beside all else that is done with a node; and nobody calls it drift."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from balancer.domain.overrides import digest_overrides
from balancer.domain.types import BackendState
from balancer.kernel.base import Busy, OutcomeUnknown, Receipt, Rejected
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import Candidate
from balancer.models import Cluster, Job, WeightMove
from balancer.workflow.effective import effective_of_job, overrides_in_force
from balancer.workflow.evidence import evidence_of
from balancer.workflow.overrides import lift_override
from balancer.workflow.revisions import compile_rulesets, live_revision, render_rulesets
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import operate, run_jobs
from tests.workflow.moving import (
    FOUR,
    ONE,
    THREE,
    TWO,
    UNEVEN,
    Balancer,
    carried,
    kernel,
    move,
    shares,
    ticks,
    watched_worker,
)
from tests.workflow.ticking import converged


@pytest.fixture
def worker(site: Site) -> Iterator[Balancer]:
    yield from watched_worker(site)


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
    Cluster.objects.update(on_drift="ask")
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


@pytest.mark.parametrize(("failures", "jobs"), [(1, []), (2, ["succeeded"])])
def test_a_write_whose_end_nobody_knows_is_put_back_or_else_followed_by_a_convergence(
    worker: Balancer, failures: int, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, left = kernel(worker), [OutcomeUnknown("Nobody knows.")] * failures

    def sync(**options: Any) -> Receipt:
        if left:
            raise left.pop()
        return type(held).sync(held, **options)

    held.loads = {"web": UNEVEN}
    monkeypatch.setattr(held, "sync", sync)

    ticks(worker, 20)
    assert converged(worker.site) == jobs
    ticks(worker, 70)

    assert shares(worker)[ONE] < Fraction(1, 4)
    assert converged(worker.site) == jobs


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
