"""Rollback drills: a marker that nobody confirms, and the proof that the node's guard took it out again."""

from dataclasses import replace
from typing import Any

from balancer.domain.types import BackendState
from balancer.kernel.base import Receipt
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard_fake import FakeGuard
from balancer.kernel.guard_state import Outcome
from balancer.models import Job
from balancer.ruleset.compile import compile_document
from balancer.ruleset.marker import with_marker
from balancer.workflow.overrides import set_override
from balancer.workflow.queries import list_bad_drills, view_drill, view_restored
from balancer.workflow.revisions import live_revision
from tests.cast import Site
from tests.documents import document, service_data
from tests.workflow.deeds import events
from tests.workflow.drilling import node_of, start
from tests.workflow.ticking import Worker


class Stuck(FakeGuard):
    """Answers, and then does nothing any more."""

    def act(self) -> None:
        return


def test_the_marker_is_a_chain_in_filter_that_nothing_leads_to() -> None:
    plain = compile_document(document(service_data("web")))
    marked = with_marker(plain, token="0123abcd")

    added = {
        (table.name, chain)
        for table, before in zip(marked.tables, plain.tables, strict=True)
        for chain in table.chains.keys() - before.chains.keys()
    }
    assert added == {("filter", "LB-drill-0123abcd")}
    assert [table.jumps for table in marked.tables] == [table.jumps for table in plain.tables]


def test_a_drill_proves_that_the_node_goes_back_and_leaves_its_rules_as_they_were(ready: Site) -> None:
    before, seen = ready.own_rules("lb1"), []

    class Watching(FakeGuard):
        def advance(self, seconds: float) -> None:
            seen.append(sorted(set(ready.own_rules("lb1")["filter"]) - set(before["filter"])))
            super().advance(seconds)

    guard = Watching(kernel=ready.kernels["lb1"])
    job = start(ready)
    ready.run(job, guard=guard)

    job.refresh_from_db()
    node = node_of(ready)
    assert job.state == "succeeded", job.error
    assert seen[0] == [f"LB-drill-{job.pk.hex[:8]}"]
    assert ready.own_rules("lb1") == before
    assert job.receipt["ipv4"]["tables_committed"] == ["filter"]
    assert (node.drilled_at is not None, node.drill_error, node.drill_flavour) == (True, "", "nft")
    assert node.drill_late == job.restored["late"]
    assert (node.carried_revision, node.in_sync) == (live_revision(ready.cluster), True)
    assert view_drill(node=node).words == "Proven just now"


def test_a_proven_drill_is_no_alarm_and_no_rollback(ready: Site) -> None:
    job, worker = start(ready), Worker(ready)
    ready.run(job)
    worker.tick()
    worker.tick()

    assert view_restored(node=node_of(ready)) is None
    assert events("guard.restored") == []
    assert not Job.objects.filter(reason="converge").exists()
    assert [e["node"] for e in events("drill.started")] == ["lb1"]
    [proven] = events("drill.proven")
    assert (proven["revision"], proven["flavour"]) == (1, "nft")
    assert list_bad_drills(cluster=ready.cluster) == ()


def test_operational_overrides_stay_in_force_through_a_drill(ready: Site) -> None:
    set_override(
        actor=ready.operator,
        cluster=ready.cluster,
        service="web",
        address="10.0.0.3",
        port=80,
        state=BackendState.DRAINING,
        reason="disk is full",
    )
    for job in Job.objects.filter(state="queued"):
        ready.run(job)
    before = ready.own_rules("lb1")

    job = start(ready)
    ready.run(job)

    job.refresh_from_db()
    assert (job.state, ready.own_rules("lb1")) == ("succeeded", before)
    assert node_of(ready).carried_overrides != ""


def test_a_guard_that_does_not_go_back_fails_the_drill_loudly_and_the_node_converges(ready: Site) -> None:
    before, job = ready.own_rules("lb1"), start(ready)
    ready.guards["lb1"] = Stuck()

    ready.run(job)

    job.refresh_from_db()
    node = node_of(ready)
    assert (job.state, node.carried_revision) == ("failed", None)
    assert "the node's guard had not put the rules back" in job.error
    assert node.drill_error == job.error
    assert [e["words"] for e in events("drill.failed")] == [job.error]
    assert ready.own_rules("lb1") != before
    [bad] = list_bad_drills(cluster=ready.cluster)
    assert (bad.node.name, bad.words) == ("lb1", "Drill failed")

    ready.run(Job.objects.get(reason="converge", state="queued"))

    assert ready.own_rules("lb1") == before
    assert node_of(ready).carried_revision == live_revision(ready.cluster)
    assert view_drill(node=node_of(ready)).state == "failed", "until one is proven"


def test_a_guard_that_claims_to_be_back_without_having_been_is_found_out(ready: Site) -> None:
    before, job = ready.own_rules("lb1"), start(ready)

    class Lying(FakeGuard):
        def advance(self, seconds: float) -> None:
            self.kernel = None
            super().advance(seconds)

    ready.run(job, guard=Lying())

    job.refresh_from_db()
    assert job.state == "failed"
    assert f"the kernel differs: - filter: -N LB-drill-{job.pk.hex[:8]}" in job.error
    ready.run(Job.objects.get(reason="converge", state="queued"))
    assert ready.own_rules("lb1") == before


def test_a_machine_that_is_started_anew_meanwhile_proves_nothing(ready: Site) -> None:
    job = start(ready)

    class Rebooting(FakeGuard):
        def last_outcome(self) -> Outcome | None:
            found = super().last_outcome()
            return replace(found, why="reboot", late=None) if found else None

    ready.run(job, guard=Rebooting(kernel=ready.kernels["lb1"]))

    job.refresh_from_db()
    assert (job.state, node_of(ready).drilled_at) == ("failed", None)
    assert "Something came in between" in job.error


def test_without_a_guard_the_job_fails_before_anything_is_written(ready: Site) -> None:
    before, job = ready.own_rules("lb1"), start(ready)
    ready.guard("lb1").alive = False

    ready.run(job)

    job.refresh_from_db()
    assert job.state == "failed"
    assert "No guard, no apply" in job.error
    assert ready.own_rules("lb1") == before
    assert not Job.objects.filter(reason="converge").exists(), "nothing has to be brought back"


def test_drift_is_not_mended_in_passing(ready: Site) -> None:
    job = start(ready)
    chains = ready.kernels["lb1"].snapshot.table("nat").chains
    chains["LB-S-web"] = chains["LB-S-web"][1:]
    drifted = ready.own_rules("lb1")

    ready.run(job)

    job.refresh_from_db()
    assert job.state == "failed"
    assert "It was not begun: the kernel differs from revision 1" in job.error
    assert ready.own_rules("lb1") == drifted
    assert ready.guard("lb1").pending() is None


def test_a_kernel_that_refuses_the_marker_fails_the_drill(ready: Site) -> None:
    class Refusing(FakeKernel):
        def sync(self, **arguments: Any) -> Receipt:
            raise ZeroDivisionError("by a driver")

    before, job = ready.own_rules("lb1"), start(ready)
    refusing = Refusing()
    refusing.snapshot, refusing.forwarding = ready.kernels["lb1"].snapshot, True

    ready.run(job, kernel=refusing)

    job.refresh_from_db()
    assert job.state == "failed"
    assert "Unexpected ZeroDivisionError" in job.error
    assert ready.own_rules("lb1") == before
