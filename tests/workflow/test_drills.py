"""Rollback drills: a marker that nobody confirms, and the proof that the node's guard took it out again."""

from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.types import BackendState
from balancer.kernel.base import Receipt
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import FileGuard
from balancer.kernel.guard_fake import FakeGuard
from balancer.kernel.guard_state import Outcome
from balancer.models import AuditEvent, Cluster, Job, Node
from balancer.ruleset.compile import compile_document
from balancer.ruleset.marker import with_marker
from balancer.workflow import drilling
from balancer.workflow.deployments import apply_change
from balancer.workflow.drills import start_drill
from balancer.workflow.freezes import declare_freeze
from balancer.workflow.nodes import NodeMemory, reconcile_node
from balancer.workflow.overrides import set_override
from balancer.workflow.queries import list_bad_drills, view_drill, view_restored
from balancer.workflow.revisions import live_revision
from tests.cast import Site
from tests.documents import document, service_data
from tests.kernel.guards import Machine
from tests.workflow.deeds import refusal_of
from tests.workflow.test_confirming import carries as carries_here
from tests.workflow.test_confirming import events
from tests.workflow.test_crashes import carries
from tests.workflow.test_nodes import Worker


@pytest.fixture
def ready(site: Site) -> Site:
    """Two nodes that carry revision 1, each with a guard that is known to run."""
    site.deploy(service_data("web"))
    for name in site.kernels:
        Worker(site, name).tick(after=0)
    return site


def node_of(site: Site, name: str = "lb1") -> Node:
    return Node.objects.select_related("cluster").get(cluster=site.cluster, name=name)


def start(site: Site, name: str = "lb1", actor: User | None = None) -> Job:
    return start_drill(actor=actor or site.operator, node=node_of(site, name))


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


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("viewer", "forbidden"),
        ("author", "forbidden"),
        ("disabled", "state"),
        ("drifted", "state"),
        ("elsewhere", "state"),
        ("frozen", "frozen"),
        ("deployment", "busy"),
        ("job", "busy"),
        ("neighbour", "busy"),
        ("away", "away"),
        ("no guard", "no-guard"),
    ],
)
def test_a_drill_is_refused_where_it_would_harm_or_prove_nothing(
    ready: Site, viewer: User, case: str, code: str
) -> None:
    lb1, actor = Node.objects.filter(name="lb1"), ready.operator
    if case in {"viewer", "author"}:
        actor = viewer if case == "viewer" else ready.author
    elif case == "disabled":
        lb1.update(enabled=False)
    elif case == "drifted":
        lb1.update(in_sync=False)
    elif case == "elsewhere":
        lb1.update(carried_revision=None)
    elif case == "frozen":
        freeze(ready)
    elif case == "deployment":
        ready.start(service_data("web", port=81))
    elif case == "job":
        start(ready)
    elif case == "neighbour":
        start(ready, "lb2")
    elif case == "away":
        lb1.update(last_seen=timezone.now() - timedelta(minutes=2))
        Job.objects.update(finished_at=timezone.now() - timedelta(minutes=2))
    else:
        lb1.update(guard={"alive": False})
    jobs = Job.objects.count()

    refusal = refusal_of(lambda: start(ready, actor=actor))

    assert refusal.code == code
    assert Job.objects.count() == jobs
    assert AuditEvent.objects.filter(action="drill.started.refused").count() == 1


@pytest.mark.parametrize("who", ["operator", "approver", "administrator"])
def test_who_applies_or_administers_may_start_one(ready: Site, administrator: User, who: str) -> None:
    people = {"operator": ready.operator, "approver": ready.approver, "administrator": administrator}

    assert start(ready, actor=people[who]).cause == f"{who} asked for it."


def freeze(site: Site) -> None:
    now = timezone.now()
    hour = timedelta(hours=1)
    declare_freeze(actor=None, cluster=site.cluster, starts_at=now, ends_at=now + hour, reason="Sale")


def test_a_node_to_which_nothing_was_applied_can_be_drilled(site: Site) -> None:
    Worker(site).tick(after=0)
    job = start(site)

    site.run(job)

    job.refresh_from_db()
    assert job.state == "succeeded", job.error
    assert carries_here(site, live_revision(site.cluster))


def test_a_deployment_makes_a_drill_that_waits_give_way(ready: Site) -> None:
    job = start(ready)

    apply_change(actor=ready.operator, change=ready.approved(service_data("web", port=81)))

    job.refresh_from_db()
    assert (job.state, node_of(ready).drill_error) == ("cancelled", "")


@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "its worker died"])
def test_a_drill_that_a_freeze_overtakes_is_cancelled_unless_it_has_begun(ready: Site, begun: bool) -> None:
    job, worker = start(ready), Worker(ready)
    if begun:
        die_in(ready, job, "_await_restore")
    freeze(ready)
    worker.now = timezone.now()

    worker.tick()
    worker.tick()

    job.refresh_from_db()
    assert job.state == ("succeeded" if begun else "cancelled"), job.error
    assert node_of(ready).drill_error == ""


def test_a_message_cannot_begin_a_drill_in_a_freeze(ready: Site) -> None:
    job = start(ready)
    freeze(ready)

    assert ready.run(job) is None

    job.refresh_from_db()
    assert job.state == "queued"
    assert events("worker.refused")[-1]["code"] == "frozen"


def die_in(site: Site, job: Job, step: str) -> None:
    """The worker is killed before this step of `drilling`."""

    def die(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drilling, step, die)
        with pytest.raises(KeyboardInterrupt):
            site.run(job)


def test_a_deployment_waits_for_a_drill_whose_worker_died_in_the_middle(ready: Site) -> None:
    job = start(ready)
    die_in(ready, job, "_await_restore")
    Job.objects.filter(pk=job.pk).update(state="queued", claim=None, claimed_by="")
    change = ready.approved(service_data("web", port=81))

    refusal = refusal_of(lambda: apply_change(actor=ready.operator, change=change))

    assert refusal.code == "busy"
    assert "is in a rollback drill just now" in refusal.message


def test_the_schedule_drills_one_node_after_the_other_and_again_after_its_hours(ready: Site) -> None:
    Cluster.objects.update(drill_hours=24)
    workers = [Worker(ready, name) for name in ("lb1", "lb2")]

    def drilled() -> list[str]:
        jobs = Job.objects.filter(reason="drill").order_by("queued_at")
        return [f"{job.node} {job.state}" for job in jobs.select_related("node")]

    def tick(after: float) -> None:
        for worker in workers:
            worker.tick(after=after)

    tick(5)
    tick(5)
    assert drilled() == ["lb1 succeeded", "lb2 succeeded"]
    assert {e["cause"] for e in events("drill.started")} == {"The schedule of the cluster asks for one."}
    tick(23 * 3600)
    assert len(drilled()) == 2
    tick(2 * 3600)
    assert len(drilled()) == 4


@pytest.mark.parametrize("hindrance", ["neighbour", "freeze", "deployment", "no guard", "no schedule"])
def test_the_schedule_waits_while_a_drill_must_not_be(ready: Site, hindrance: str) -> None:
    Cluster.objects.update(drill_hours=None if hindrance == "no schedule" else 1)
    if hindrance == "neighbour":
        start(ready, "lb2")
    elif hindrance == "freeze":
        freeze(ready)
    elif hindrance == "deployment":
        ready.start(service_data("web", port=81))
    elif hindrance == "no guard":
        ready.guard("lb1").alive = False
    worker = Worker(ready)
    worker.now = timezone.now() - timedelta(seconds=4)

    worker.tick()

    assert not Job.objects.filter(reason="drill", node__name="lb1").exists()
    assert not AuditEvent.objects.filter(action__startswith="drill.started", actor_name="system").exists()


def test_a_drill_that_the_schedule_asks_for_in_vain_is_overdue(ready: Site) -> None:
    Cluster.objects.update(drill_hours=24)
    now, node = timezone.now(), Node.objects.filter(name="lb1")
    Node.objects.update(drilled_at=now)
    node.update(drilled_at=now - timedelta(hours=24, minutes=30))
    assert list_bad_drills(cluster=ready.cluster) == ()

    node.update(drilled_at=now - timedelta(hours=26))

    [bad] = list_bad_drills(cluster=ready.cluster)
    assert (bad.node.name, bad.overdue, bad.words) == ("lb1", True, "Proven 26 hours ago")
    node.update(enabled=False)
    assert list_bad_drills(cluster=ready.cluster) == ()


# the worker is killed

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


def test_a_kernel_that_refuses_the_marker_fails_the_drill(ready: Site) -> None:
    class Refusing(FakeKernel):
        def sync(self, **arguments: Any) -> Receipt:
            raise ZeroDivisionError("by a driver")

    before, job = ready.own_rules("lb1"), start(ready)
    refusing = Refusing()
    refusing.snapshot = ready.kernels["lb1"].snapshot

    ready.run(job, kernel=refusing)

    job.refresh_from_db()
    assert job.state == "failed"
    assert "Unexpected ZeroDivisionError" in job.error
    assert ready.own_rules("lb1") == before
