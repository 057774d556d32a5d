"""Commit-confirm: the guard is armed before the commit; without a confirm the node goes back by itself."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.domain.types import Document
from balancer.kernel.base import OutcomeUnknown, Receipt, Rejected
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard_fake import FakeGuard
from balancer.kernel.guard_files import GuardError
from balancer.models import Cluster, Deployment, Job, Node, Revision
from balancer.ruleset.parse import parse_ruleset
from balancer.workflow.confirmations import confirm_deployment
from balancer.workflow.confirming import Bench, ConfirmProbe
from balancer.workflow.deployments import cancel_deployment
from balancer.workflow.jobs import confirm_job
from balancer.workflow.queries import view_deployment
from balancer.workflow.revisions import live_revision
from tests.cast import Site, own_rules
from tests.documents import service_data
from tests.workflow.deeds import events, refusal_of
from tests.workflow.ticking import Worker


class Network:
    """What the checks after a commit find; `cut` is a ruleset that takes broker and services away."""

    def __init__(self) -> None:
        self.cut = True
        self.asked: list[frozenset[str]] = []

    def __call__(self, document: Document, touched: frozenset[str], _: object) -> tuple[ConfirmProbe, ...]:
        self.asked.append(touched)
        text = "The broker does not answer." if self.cut else "The broker answered."
        return (ConfirmProbe("broker", not self.cut, text), ConfirmProbe("udp", None, "Cannot be asked."))


@pytest.fixture
def one(site: Site) -> Site:
    """A cluster with one node that carries revision 1."""
    Node.objects.filter(name="lb2").delete()
    site.deploy(service_data("web"))
    return site


def policy(site: Site, confirm: str = "automatic", seconds: int = 60) -> None:
    Cluster.objects.filter(pk=site.cluster.pk).update(confirm=confirm, confirm_seconds=seconds)
    site.cluster.refresh_from_db()


def start(site: Site, **fields: Any) -> Job:
    return site.start(service_data("web", **({"port": 81} | fields))).jobs.get(node__name="lb1")


def carries(site: Site, revision: Revision, node: str = "lb1") -> bool:
    return all(
        site.kernels[node].compare(ruleset=parse_ruleset(text, family=family)).in_sync
        for family, text in revision.rulesets.items()
    )


def worker_of(site: Site, checks: Callable[..., Any] | None = None) -> Worker:
    return Worker(site, confirm=checks) if checks else Worker(site)


def test_the_guard_is_armed_with_what_is_live_before_anything_is_written(one: Site) -> None:
    seen = []

    class Watching(FakeKernel):
        def sync(self, **arguments: Any) -> Receipt:
            seen.append((one.guard("lb1").pending(), one.guard("lb1").confirmed()))
            return super().sync(**arguments)

    before = live_revision(one.cluster)
    kernel = Watching()
    one.kernels["lb1"] = kernel
    job = start(one)
    one.run(job)

    (pending, confirmed) = seen[0]
    assert (pending.job, pending.revision, pending.seconds) == (str(job.pk), 2, 120)
    assert (confirmed.revision, confirmed.digest) == (before.number, before.digest)
    assert {"ipv4": confirmed.rulesets["ipv4"]} == before.rulesets
    assert set(confirmed.rulesets) == {"ipv4", "ipv6"}


def test_checks_that_hold_confirm_at_once_and_are_kept_with_the_job(one: Site) -> None:
    network = Network()
    network.cut = False
    job = start(one)

    assert one.run(job, confirm=network) is JobState.SUCCEEDED

    job.refresh_from_db()
    assert [(p["name"], p["passed"]) for p in job.probes] == [
        ("database", True),
        ("read-back", True),
        ("broker", True),
        ("udp", None),
    ]
    assert network.asked == [frozenset({"web"})]
    confirmed = one.guard("lb1").confirmed()
    assert confirmed is not None
    assert (confirmed.revision, confirmed.job, one.guard("lb1").pending()) == (2, str(job.pk), None)
    assert events("job.succeeded")[-1]["confirmed_by"] == "checks"


def test_without_a_living_guard_nothing_is_written(one: Site) -> None:
    before = one.own_rules("lb1")
    one.guard("lb1").alive = False
    job = start(one)

    assert one.run(job) is JobState.FAILED

    job.refresh_from_db()
    assert job.error.startswith("No guard, no apply")
    assert one.own_rules("lb1") == before
    assert Node.objects.get().carried_revision == live_revision(one.cluster)


def test_checks_that_fail_are_made_again_and_then_leave_the_job_waiting(one: Site) -> None:
    network, job = Network(), start(one)

    assert one.run(job, confirm=network) is JobState.UNCONFIRMED

    job.refresh_from_db()
    assert len(network.asked) > 5
    assert job.confirm_by is not None
    assert "Waiting for a confirm, 110 seconds" in job.steps[-1]["text"]
    assert job.deployment.state == "running"
    assert events("job.unconfirmed")[-1]["revision"] == 2


def test_a_node_that_is_well_again_in_time_is_confirmed_at_a_tick(one: Site) -> None:
    network = Network()
    worker = worker_of(one, network)
    job = start(one)
    one.run(job, confirm=network)

    worker.tick()
    job.refresh_from_db()
    assert job.state == "unconfirmed"
    network.cut = False
    worker.tick()

    job.refresh_from_db()
    assert (job.state, live_revision(one.cluster).number) == ("succeeded", 2)


def test_when_the_guard_goes_back_the_rows_follow_and_say_why(one: Site) -> None:
    network = Network()
    worker = worker_of(one, network)
    before = live_revision(one.cluster)
    job = start(one)
    one.run(job, confirm=network)
    one.guard("lb1").advance(200)
    assert carries(one, before)

    worker.tick()
    worker.tick()

    job.refresh_from_db()
    deployment = Deployment.objects.get(pk=job.deployment_id)
    assert (job.state, deployment.state, deployment.change.state) == ("failed", "rolled-back", "failed")
    assert "Revision 2 was not confirmed within 120 seconds" in deployment.error
    assert job.restored["given_up"] == 2
    node = Node.objects.get()
    assert (node.carried_revision, node.in_sync, node.guard["restored"]["restored"]) == (before, True, 1)
    assert live_revision(one.cluster) == before
    [event] = events("guard.restored")
    assert (event["given_up"], event["revision"], event["why"]) == (2, 1, "deadline")
    assert len(events("deployment.rolled_back")) == 1
    assert carries(one, before)


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_rollback_during_which_the_worker_was_dead_is_told_by_the_next_one(one: Site, state: str) -> None:
    """It died after the commit; queued: recovered already, and then killed again."""
    job = start(one)
    with pytest.raises(KeyboardInterrupt):
        one.run(job, confirm=Dying())
    if state == "queued":
        Job.objects.filter(pk=job.pk).update(state="queued", claim=None, claimed_by="")
    one.guard("lb1").advance(200)

    worker_of(one).tick()

    job.refresh_from_db()
    assert (job.state, job.deployment.state) == ("failed", "rolled-back")
    assert len(events("guard.restored")) == 1


class Dying:
    """The worker is killed between commit and confirm."""

    def __call__(self, document: Document, touched: frozenset[str], _: object) -> tuple[ConfirmProbe, ...]:
        raise KeyboardInterrupt


def test_a_worker_that_died_after_the_commit_goes_on_with_the_deadline_that_it_had(one: Site) -> None:
    job = start(one)
    with pytest.raises(KeyboardInterrupt):
        one.run(job, confirm=Dying())
    pending = one.guard("lb1").pending()
    one.guard("lb1").advance(50)

    worker_of(one).tick()
    worker_of(one).tick()

    job.refresh_from_db()
    confirmed = one.guard("lb1").confirmed()
    assert (job.state, job.attempts) == ("succeeded", 2)
    assert (confirmed and confirmed.token) == (pending and pending.token)


def test_a_worker_that_died_after_the_confirm_writes_it_down_the_next_time(
    one: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(one)
    confirm = FakeGuard.confirm

    def confirm_and_die(self: FakeGuard, **arguments: Any) -> None:
        confirm(self, **arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeGuard, "confirm", confirm_and_die)
    with pytest.raises(KeyboardInterrupt):
        one.run(job)
    monkeypatch.undo()
    one.guard("lb1").advance(1000)

    worker_of(one, Network()).tick()
    worker_of(one, Network()).tick()

    job.refresh_from_db()
    assert (job.state, live_revision(one.cluster).number) == ("succeeded", 2)
    assert carries(one, job.revision)


def test_nothing_is_written_after_the_deadline(one: Site) -> None:
    """The kernel was busy for longer than the time to confirm."""
    job, before = start(one), one.own_rules("lb1")

    class Late(FakeKernel):
        def sync(self, **arguments: Any) -> Receipt:
            one.guard("lb1").advance(500)
            return super().sync(**arguments)

    kernel = Late()
    kernel.snapshot = one.kernels["lb1"].snapshot
    one.guard("lb1").kernel = one.kernels["lb1"]

    assert one.run(job, kernel=kernel, guard=one.guard("lb1")) is JobState.FAILED

    assert own_rules(kernel.snapshot) == before
    job.refresh_from_db()
    assert job.error.startswith("Nothing was written.")


def test_what_the_kernel_refused_is_disarmed(one: Site) -> None:
    one.kernels["lb1"].fail_next = Rejected("The kernel said no.")
    job = start(one)

    assert one.run(job) is JobState.FAILED

    assert one.guard("lb1").pending() is None


def test_where_nobody_knows_what_the_kernel_holds_the_guard_goes_on_waiting(one: Site) -> None:
    class Lost(FakeKernel):
        def sync(self, **_: Any) -> Receipt:
            raise OutcomeUnknown("The read-back failed.")

    job = start(one)

    assert one.run(job, kernel=Lost()) is JobState.FAILED

    assert one.guard("lb1").pending() is not None
    worker_of(one).tick()
    assert one.guard("lb1").pending() is None, "the convergence has told it what is live"


def test_a_convergence_tells_the_guard_what_it_goes_back_to(one: Site) -> None:
    one.guards["lb1"] = FakeGuard()
    one.kernels["lb1"] = FakeKernel()

    worker_of(one).tick()

    confirmed = one.guard("lb1").confirmed()
    assert (confirmed and confirmed.revision, carries(one, live_revision(one.cluster))) == (1, True)


def test_a_guard_that_knows_nothing_is_handed_what_was_seen_in_the_kernel(one: Site) -> None:
    one.guards["lb1"] = FakeGuard()

    worker_of(one).tick()

    confirmed = one.guard("lb1").confirmed()
    assert (confirmed and confirmed.revision) == 1
    assert not Job.objects.filter(reason="converge").exists()


def test_a_tick_says_whether_the_guard_runs(one: Site) -> None:
    worker = worker_of(one)
    worker.tick()
    assert worker.node.guard["alive"] is True

    one.guard("lb1").alive = False
    worker.tick()

    assert worker.node.guard["alive"] is False


# People


@pytest.mark.parametrize("who", ["operator", "approver"])
def test_a_person_confirms_where_the_policy_says_so(one: Site, who: str) -> None:
    policy(one, "manual")
    person = getattr(one, who)
    job = start(one)
    assert one.run(job) is JobState.UNCONFIRMED
    worker = worker_of(one)
    worker.tick()
    job.refresh_from_db()
    assert job.state == "unconfirmed", "checks that hold confirm nothing here"

    confirm_deployment(actor=person, deployment=job.deployment)
    state = confirm_job(job_id=str(job.pk), node_name="lb1", bench=bench(one))

    assert state is JobState.SUCCEEDED
    assert events("deployment.confirmed")[-1]["nodes"] == ["lb1"]
    assert events("job.succeeded")[-1]["confirmed_by"] == person.get_username()


def bench(site: Site) -> Bench:
    return Bench(kernel=site.kernels["lb1"], guard=site.guard("lb1"), confirm=Network(), clock=timezone.now)


def test_a_confirm_whose_message_is_lost_is_found_at_the_next_tick(one: Site) -> None:
    policy(one, "both")
    network, job = Network(), start(one)
    one.run(job, confirm=network)

    confirm_deployment(actor=one.operator, deployment=job.deployment)
    worker_of(one, network).tick()

    job.refresh_from_db()
    assert (job.state, job.confirmed_by) == ("succeeded", one.operator)


def test_both_means_whichever_comes_first(one: Site) -> None:
    policy(one, "both")

    assert one.run(start(one)) is JobState.SUCCEEDED


def test_who_may_not_apply_may_not_confirm_and_nobody_confirms_what_does_not_wait(one: Site) -> None:
    policy(one, "manual")
    job = start(one)
    deployment = job.deployment

    def code(actor: Any) -> str:
        return refusal_of(lambda: confirm_deployment(actor=actor, deployment=deployment)).code

    assert code(one.operator) == "nothing"
    one.run(job)
    assert code(one.author) == "forbidden"
    policy(one, "automatic")
    assert code(one.operator) == "policy"
    policy(one, "manual")
    Job.objects.filter(pk=job.pk).update(confirm_by=timezone.now() - timedelta(seconds=1))
    assert code(one.operator) == "nothing"
    assert events("deployment.confirmed") == []
    assert len(events("deployment.confirmed.refused")) == 4


def test_a_confirm_that_comes_too_late_changes_nothing(one: Site) -> None:
    policy(one, "manual")
    before, job = live_revision(one.cluster), start(one)
    one.run(job)
    confirm_deployment(actor=one.operator, deployment=job.deployment)
    one.guard("lb1").advance(100)

    confirm_job(job_id=str(job.pk), node_name="lb1", bench=bench(one))

    job.refresh_from_db()
    assert (job.state, job.deployment.state) == ("failed", "rolled-back")
    assert carries(one, before)


def test_a_hint_about_a_job_that_does_not_wait_is_refused(one: Site) -> None:
    job = start(one)

    assert confirm_job(job_id=str(job.pk), node_name="lb1", bench=bench(one)) is None
    assert confirm_job(job_id="nonsense", node_name="lb1", bench=bench(one)) is None

    assert [event["code"] for event in events("worker.refused")] == ["not-waiting"] * 2


# Several nodes, and guards that fail


def test_a_node_that_waits_is_put_back_when_its_deployment_is_cancelled(site: Site) -> None:
    revision = site.deploy(service_data("web"))
    policy(site, "manual")
    deployment = site.start(service_data("web", port=81))
    first, second = deployment.jobs.order_by("position")
    site.run(first)
    assert "lb1 is put back" in view_deployment(deployment=deployment).cancel.puts_back

    cancel_deployment(actor=site.operator, deployment=deployment)
    worker_of(site).tick()

    for row in (deployment, first, second):
        row.refresh_from_db()
    assert (first.state, second.state, deployment.state) == ("failed", "cancelled", "cancelled")
    assert "operator cancelled the deployment, so this node was put back to revision 1" in first.error
    assert carries(site, revision)
    assert site.guard("lb1").pending() is None


def test_a_guard_that_never_says_what_it_did_ends_the_job_and_the_node_converges(one: Site) -> None:
    policy(one, "manual")
    before, job = live_revision(one.cluster), start(one)
    one.run(job)
    one.guards["lb1"] = FakeGuard()  # its disk was lost
    worker = worker_of(one)

    worker.tick()
    job.refresh_from_db()
    assert job.state == "unconfirmed"
    worker.tick(after=600)
    worker.tick()

    job.refresh_from_db()
    assert (job.state, carries(one, before)) == ("failed", True)
    assert Node.objects.get().carried_revision == before


def test_a_guard_whose_files_cannot_be_read_does_not_stop_the_tick(
    one: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(one, "manual")
    job = start(one)
    one.run(job)

    def broken(_: FakeGuard) -> None:
        raise GuardError("The file is damaged.")

    monkeypatch.setattr(FakeGuard, "confirmed", broken)
    monkeypatch.setattr(FakeGuard, "last_outcome", broken)

    worker_of(one).tick()

    assert Node.objects.get().last_seen is not None
