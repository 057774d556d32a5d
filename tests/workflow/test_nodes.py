"""A node looks after itself: ticks, recovery, convergence, drift."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone

from balancer.domain.observation import Listener, Observation
from balancer.domain.types import Protocol
from balancer.kernel.base import Difference, KernelError, NodeFacts, Rejected
from balancer.kernel.fake import FakeKernel
from balancer.models import AuditEvent, Cluster, Job, Node
from balancer.workflow.clusters import create_node
from balancer.workflow.editing import open_change
from balancer.workflow.observations import observation_of
from balancer.workflow.queries import view_node
from tests.cast import Site, own_rules
from tests.documents import service_data
from tests.workflow.ticking import Worker, converged, damage, reboot


@pytest.fixture
def worker(site: Site) -> Worker:
    return Worker(site)


def test_a_tick_says_that_the_node_is_there_and_what_it_is(site: Site, worker: Worker) -> None:
    Node.objects.update(last_seen=None)
    assert view_node(node=worker.node).absent

    worker.tick()

    assert worker.node.last_seen == worker.now
    assert worker.node.facts["driver"] == "iptables-restore"
    assert not view_node(node=worker.node, now=worker.now).absent
    assert view_node(node=worker.node, now=worker.now + timedelta(minutes=1)).absent


def test_a_node_to_which_nothing_was_ever_applied_is_left_as_it_is(site: Site, worker: Worker) -> None:
    worker.tick()
    worker.tick()

    assert own_rules(site.kernels["lb1"].snapshot) == {"filter": {}, "nat": {}}
    assert not Job.objects.exists()


def test_a_job_whose_message_was_lost_is_found(site: Site, worker: Worker) -> None:
    worker.tick()
    worker.tick()
    deployment = site.start(service_data("web"))
    worker.now = timezone.now()

    worker.tick(after=0)
    assert deployment.jobs.get(node__name="lb1").state == "queued"
    worker.tick()

    assert deployment.jobs.get(node__name="lb1").state == "succeeded"


def test_a_worker_that_starts_finds_the_job_that_its_dead_predecessor_was_at(
    site: Site, worker: Worker
) -> None:
    deployment = site.start(service_data("web"))
    Job.objects.filter(node__name="lb1").update(
        state="running", claim=uuid.uuid4(), claimed_by="another boot:1:1", attempts=1
    )

    worker.tick(after=0)

    assert deployment.jobs.get(node__name="lb1").state == "succeeded"


def test_a_new_node_is_brought_to_what_is_live(site: Site) -> None:
    site.deploy(service_data("web"))
    create_node(actor=None, cluster=site.cluster, name="lb3")
    reboot(site, "lb3")

    Worker(site, name="lb3").tick()

    assert site.own_rules("lb3") == site.own_rules("lb1")
    assert Node.objects.get(name="lb3").carried_revision.number == 1


def test_a_rebooted_node_carries_its_rules_again_when_its_worker_starts(site: Site, worker: Worker) -> None:
    site.deploy(service_data("web"))
    before = site.own_rules("lb1")
    reboot(site)

    worker.tick()

    assert site.own_rules("lb1") == before
    assert converged(site) == ["succeeded"]


def test_drift_is_reported_once_and_so_is_its_end(site: Site, worker: Worker) -> None:
    Cluster.objects.update(on_drift="ask")
    site.deploy(service_data("web"))
    worker.tick()
    good = dict(site.kernels["lb1"].snapshot.table("nat").chains)
    damage(site)
    for _ in range(3):
        worker.tick(after=20)
    site.kernels["lb1"].snapshot.table("nat").chains.update(good)
    for _ in range(3):
        worker.tick(after=20)

    actions = AuditEvent.objects.filter(object_type="node", action__in=["node.drifted", "node.in_sync"])
    assert sorted(actions.values_list("action", flat=True)) == ["node.drifted", "node.in_sync"]
    assert worker.node.in_sync is True


def test_drift_that_is_there_when_the_worker_starts_is_put_right(site: Site, worker: Worker) -> None:
    site.deploy(service_data("web"))
    good = site.own_rules("lb1")
    damage(site)

    worker.tick()

    assert site.own_rules("lb1") == good


def test_nothing_is_put_back_while_a_deployment_runs(site: Site, worker: Worker) -> None:
    site.deploy(service_data("web"))
    deployment = site.start(service_data("web", port=81))
    site.run(deployment.jobs.get(node__name="lb1"))
    carried = site.own_rules("lb1")

    worker.tick()
    worker.tick(after=60)

    assert (site.own_rules("lb1"), converged(site)) == (carried, [])


def test_the_kernel_is_not_read_at_every_tick(site: Site, worker: Worker) -> None:
    site.deploy(service_data("web"))
    counts = {"compare": 0, "facts": 0}

    class Counting(FakeKernel):
        def compare(self, **arguments: Any) -> Difference:
            counts["compare"] += 1
            return super().compare(**arguments)

        def facts(self) -> NodeFacts:
            counts["facts"] += 1
            return super().facts()

    kernel = Counting()
    kernel.snapshot, kernel.forwarding = site.kernels["lb1"].snapshot, True
    site.kernels["lb1"] = kernel
    for _ in range(24):
        worker.tick(after=5)

    assert counts == {"compare": 24, "facts": 2}, "one look at each family"


def test_a_convergence_that_fails_is_tried_again_less_and_less_often(site: Site, worker: Worker) -> None:
    site.deploy(service_data("web"))

    class Refusing(FakeKernel):
        def sync(self, **_: object) -> Any:
            raise Rejected("Not today.")

    site.kernels["lb1"] = Refusing()
    for _ in range(120):
        worker.tick(after=30)

    tried = len(converged(site))
    assert 8 <= tried <= 20, "an hour of ticks"
    site.kernels["lb1"] = FakeKernel()
    worker.tick(after=301)
    assert converged(site)[0] == "succeeded"


def test_a_kernel_that_cannot_be_read_is_not_taken_for_one_that_differs(site: Site, worker: Worker) -> None:
    site.deploy(service_data("web"))

    class Unreadable(FakeKernel):
        def compare(self, **_: object) -> Any:
            raise KernelError("iptables-save is not there.")

        def facts(self) -> Any:
            raise KernelError("iptables-save is not there.")

    site.kernels["lb1"] = Unreadable()
    worker.tick()

    assert (worker.node.in_sync, worker.node.sync_detail) == (None, "iptables-save is not there.")
    assert worker.node.facts == {"error": "iptables-save is not there."}
    assert converged(site) == []


def test_a_worker_of_an_unknown_node_says_so_once_and_does_nothing(site: Site) -> None:
    reboot(site, "lb9")
    worker = Worker(site, name="lb9")
    worker.tick()
    worker.tick()

    events = AuditEvent.objects.filter(action="worker.refused")
    assert list(events.values_list("facts__code", flat=True)) == ["unknown-node"]


def test_a_node_that_is_switched_off_comes_back_to_what_is_live(site: Site, worker: Worker) -> None:
    Node.objects.filter(name="lb1").update(enabled=False)
    site.deploy(service_data("web"))
    worker.tick()
    assert worker.node.carried_revision is None

    Node.objects.filter(name="lb1").update(enabled=True)
    worker.tick()

    assert site.own_rules("lb1") == site.own_rules("lb2")


def test_every_start_of_a_worker_is_on_record(site: Site, worker: Worker) -> None:
    worker.tick()
    worker.tick()
    worker.restart()
    worker.tick()

    assert AuditEvent.objects.filter(action="worker.started", object_id=str(worker.node.pk)).count() == 2


@dataclass
class Looked:
    """A node's kernel that counts how often it was looked at, and takes its time over it."""

    worker: Worker
    times: list[datetime] = field(default_factory=list)
    takes: float = 0.0

    def put_in(self) -> "Looked":
        looked = self

        class Looking(FakeKernel):
            def observe(self) -> Observation:
                looked.times.append(looked.worker.now)
                looked.worker.now += timedelta(seconds=looked.takes)
                return super().observe()

        kernel = Looking()
        kernel.forwarding = True
        kernel.snapshot = self.worker.site.kernels["lb1"].snapshot
        self.worker.site.kernels["lb1"] = kernel
        return self

    def tick_for(self, seconds: float) -> list[float]:
        """The pauses between looks."""
        self.times.clear()
        until = self.worker.now + timedelta(seconds=seconds)
        while self.worker.now < until:
            self.worker.tick(after=5)
        return [(b - a).total_seconds() for a, b in pairwise(self.times)]


@pytest.fixture
def looked(worker: Worker) -> Looked:
    return Looked(worker).put_in()


def test_a_node_is_looked_at_and_what_was_seen_is_kept(site: Site, worker: Worker) -> None:
    listener = Listener(protocol=Protocol.TCP, address="*", port=22)
    site.kernels["lb1"].observed = Observation(listeners=(listener,))
    worker.tick()
    assert observation_of(worker.node) == site.kernels["lb1"].observe()
    assert worker.node.observed_at == worker.now


def test_a_node_is_looked_at_once_a_minute_and_more_often_while_a_change_has_something_in_it(
    site: Site, looked: Looked
) -> None:
    site.deploy(service_data("web"))
    assert set(looked.tick_for(185)) == {60}
    change = open_change(actor=site.author, cluster=site.cluster, title="Empty so far")
    assert set(looked.tick_for(185)) == {60}
    site.save("dns", port=53, protocol="udp")
    assert set(looked.tick_for(60)) == {10}
    change.drafts.all().delete()
    assert set(looked.tick_for(185)) == {60}


def test_a_look_that_takes_long_is_followed_by_a_long_rest(looked: Looked) -> None:
    looked.takes = 3
    assert all(183 <= pause <= 190 for pause in looked.tick_for(600))
    looked.takes = 0.5
    assert looked.tick_for(300)[-1] < 70


def test_a_node_that_cannot_be_looked_at_says_why(site: Site, worker: Worker) -> None:
    class Blind(FakeKernel):
        def observe(self) -> Any:
            raise Rejected("The program conntrack is not installed.")

    site.kernels["lb1"] = Blind()
    worker.tick()
    assert worker.node.observation == {"error": "The program conntrack is not installed."}
    assert observation_of(worker.node) is None


def test_jobs_and_convergence_come_before_looking(site: Site, worker: Worker, looked: Looked) -> None:
    deployment = site.start(service_data("web"))
    looked.tick_for(5)
    assert deployment.jobs.get(node__name="lb1").state == "succeeded"
    assert looked.times == []
    looked.tick_for(5)
    assert len(looked.times) == 1, "a deployment that runs elsewhere keeps nobody from looking"
