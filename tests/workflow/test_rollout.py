"""A roll-out: the canary first, the others one by one; a failure stops it; a node that is down blocks it or
is left out and catches up; a cancel says what it can still stop."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.domain.operation import Away
from balancer.kernel.base import Rejected
from balancer.kernel.fake import FakeKernel
from balancer.models import AuditEvent, Change, Cluster, Deployment, Job, Node
from balancer.workflow.clusters import create_node
from balancer.workflow.confirming import ConfirmProbe
from balancer.workflow.deployments import apply_change, cancel_deployment
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.nodes import reconcile_node
from balancer.workflow.queries import view_deployment
from balancer.workflow.revisions import live_revision
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import refusal_of


class Machines:
    """The workers of all nodes of the site, under one clock; some of them may be down."""

    def __init__(self, site: Site) -> None:
        self.site, self.now = site, timezone.now()
        self.memories = {name: NodeMemory() for name in site.kernels}

    def clock(self) -> datetime:
        return self.now

    def tick(self, *names: str, after: float = 5) -> None:
        self.now += timedelta(seconds=after)
        for name in names:
            reconcile_node(
                node_name=name,
                kernel=self.site.kernels[name],
                guard=self.site.guard(name),
                memory=self.memories[name],
                identity=f"{name}:1:1",
                clock=self.clock,
            )


@pytest.fixture
def machines(site: Site) -> Machines:
    return Machines(site)


@pytest.fixture
def three(site: Site) -> Iterator[Site]:
    create_node(actor=None, cluster=site.cluster, name="lb3")
    site.kernels["lb3"] = FakeKernel()
    site.see_nodes()
    return site


def policy(site: Site, **fields: object) -> None:
    Cluster.objects.filter(pk=site.cluster.pk).update(**fields)


def states(deployment: Deployment) -> dict[str, str]:
    return dict(deployment.jobs.order_by("position").values_list("node__name", "state"))


def carried(site: Site) -> dict[str, int | None]:
    return dict(site.cluster.nodes.order_by("name").values_list("name", "carried_revision__number"))


# The order


def test_the_first_node_by_name_is_the_canary_unless_the_policy_names_another(three: Site) -> None:
    first = three.start(service_data("web"))
    assert list(states(first)) == ["lb1", "lb2", "lb3"]
    three.finish(first)

    policy(three, canary=Node.objects.get(name="lb2"))

    assert list(states(three.start(service_data("mail", port=25)))) == ["lb2", "lb1", "lb3"]


def test_a_node_does_not_begin_before_those_in_front_of_it_have_succeeded(site: Site) -> None:
    deployment = site.start(service_data("web"))
    canary, second = deployment.jobs.order_by("position")

    assert site.run(second) is None
    assert not site.own_rules("lb2").get("nat")
    assert AuditEvent.objects.filter(action="worker.refused", facts__code="not-yet").count() == 1

    Job.objects.filter(pk=canary.pk).update(state="running")
    assert site.run(second) is None
    Job.objects.filter(pk=canary.pk).update(state="queued")
    site.run(canary)
    assert site.run(second) is JobState.SUCCEEDED


def test_the_end_of_a_job_calls_the_next_node_and_no_other(
    three: Site, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: object
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        "balancer.workflow.queue.current_app.send_task", lambda name, **o: sent.append(o["queue"])
    )
    deployment = three.start(service_data("web"))
    for job in deployment.jobs.order_by("position"):
        with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
            three.run(job)

    assert sent == ["node.lb2", "node.lb3"]


def test_a_lost_message_costs_the_next_node_one_tick(site: Site, machines: Machines) -> None:
    deployment = site.start(service_data("web"))

    for _ in range(2):
        machines.tick("lb2", "lb1")
    assert states(deployment) == {"lb1": "succeeded", "lb2": "succeeded"}
    assert AuditEvent.objects.filter(action="worker.refused").count() == 0


# A failure


def test_where_the_canary_fails_the_second_is_never_touched_and_the_canary_is_put_back(
    site: Site, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deploy(service_data("web"))
    before = {name: site.own_rules(name) for name in site.kernels}
    deployment = site.start(service_data("web", port=81))
    site.kernels["lb1"].fail_next = Rejected("The probe found nobody.")
    touched: list[object] = []
    monkeypatch.setattr(site.kernels["lb2"], "sync", lambda **options: touched.append(options))

    for _ in range(3):
        machines.tick("lb2", "lb1")

    deployment.refresh_from_db()
    assert (deployment.state, deployment.error) == ("failed", "lb1: The probe found nobody.")
    assert states(deployment) == {"lb1": "failed", "lb2": "cancelled"}
    assert deployment.jobs.get(node__name="lb2").claimed_at is None
    assert list(Job.objects.filter(reason="converge").values_list("node__name", "state")) == [
        ("lb1", "succeeded")
    ]
    assert {name: site.own_rules(name) for name in site.kernels} == before
    assert (touched, carried(site)) == ([], {"lb1": 1, "lb2": 1})


def test_where_a_service_does_not_answer_through_the_canary_it_goes_back_and_the_second_is_never_touched(
    site: Site, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deploy(service_data("web"))
    before = {name: site.own_rules(name) for name in site.kernels}
    deployment = site.start(service_data("web", port=81))
    touched: list[object] = []
    monkeypatch.setattr(site.kernels["lb2"], "sync", lambda **options: touched.append(options))
    silent = ConfirmProbe("web", False, "web did not answer through eth0 within 5 s.")

    first = deployment.jobs.get(position=1)
    assert site.run(first, confirm=lambda *_: (silent,)) is JobState.UNCONFIRMED
    site.guard("lb1").advance(site.cluster.operation.confirm_seconds)
    machines.tick("lb2", "lb1")

    deployment.refresh_from_db()
    assert deployment.state == "rolled-back"
    assert states(deployment) == {"lb1": "failed", "lb2": "cancelled"}
    assert {name: site.own_rules(name) for name in site.kernels} == before
    assert (touched, carried(site)) == ([], {"lb1": 1, "lb2": 1})


def test_where_a_later_node_fails_those_before_it_are_put_back_at_once(three: Site) -> None:
    three.deploy(service_data("web"))
    deployment = three.start(service_data("web", port=81))
    canary, second, _ = deployment.jobs.order_by("position")
    three.run(canary)
    three.kernels["lb2"].fail_next = Rejected("The kernel said no.")

    three.run(second)

    back = Job.objects.filter(reason="converge")
    assert set(back.values_list("node__name", "state")) == {("lb1", "queued"), ("lb2", "queued")}
    view = view_deployment(deployment=Deployment.objects.get(pk=deployment.pk))
    assert (view.running, view.active) == (False, True)
    assert [job.afterwards for job in view.jobs] == [
        "Being put back to revision 1.",
        "Being put back to revision 1.",
        "It had not begun, so nothing was changed here.",
    ]
    for job in back:
        three.run(job)
    view = view_deployment(deployment=Deployment.objects.get(pk=deployment.pk))
    assert not view.active
    assert view.jobs[0].afterwards == "Put back: it carries revision 1 again."


# A node that is down


def test_a_node_that_is_down_blocks_the_beginning_where_the_policy_says_so(site: Site) -> None:
    change = site.approved(service_data("web"))
    site.see_nodes("lb2", at=timezone.now() - timedelta(seconds=31))

    refusal = refusal_of(lambda: apply_change(actor=site.operator, change=change))

    assert refusal.code == "away"
    assert refusal.message.startswith("lb2 is down,")
    assert not Deployment.objects.exists()


def test_a_node_whose_worker_is_at_a_job_or_has_just_finished_one_is_not_down(site: Site) -> None:
    site.deploy(service_data("web"))
    site.see_nodes(at=timezone.now() - timedelta(seconds=31))

    site.deploy(service_data("web", port=81))

    assert carried(site) == {"lb1": 2, "lb2": 2}


def test_a_roll_out_under_way_waits_for_a_node_that_is_down_says_so_and_can_be_cancelled(
    site: Site, machines: Machines
) -> None:
    deployment = site.start(service_data("web"))
    machines.tick("lb1")
    for _ in range(8):
        machines.tick("lb1")

    view = view_deployment(deployment=deployment, clock=machines.clock)

    assert states(deployment) == {"lb1": "succeeded", "lb2": "queued"}
    assert view.jobs[1].node == "lb2"
    assert view.jobs[1].waiting_for.startswith("The node is down, and the roll-out waits for it.")
    assert (view.cancel.possible, view.cancel.stops) == (True, "lb2 has not begun and will not be touched.")
    cancelled = cancel_deployment(actor=site.operator, deployment=deployment)
    assert cancelled.error == "Cancelled before lb2 had begun. lb1 had, and is put back."
    machines.tick("lb1")
    assert carried(site)["lb1"] == 0


def test_a_node_that_is_down_is_left_out_where_the_policy_says_so_and_catches_up_when_it_returns(
    site: Site, machines: Machines
) -> None:
    policy(site, away=Away.SKIP)
    change = site.approved(service_data("web"))
    site.see_nodes("lb2", at=timezone.now() - timedelta(seconds=31))

    deployment = apply_change(actor=site.operator, change=change)
    machines.tick("lb1")

    deployment.refresh_from_db()
    assert (deployment.state, states(deployment)) == ("succeeded", {"lb1": "succeeded", "lb2": "skipped"})
    assert live_revision(site.cluster) == deployment.revision
    assert "went on without it" in view_deployment(deployment=deployment).jobs[1].afterwards

    machines.tick("lb2")

    assert carried(site) == {"lb1": 1, "lb2": 1}
    assert site.own_rules("lb2") == site.own_rules("lb1")
    assert view_deployment(deployment=deployment).jobs[1].afterwards.endswith("caught up since.")


def test_a_node_that_goes_down_during_a_roll_out_is_left_out_at_its_turn(
    three: Site, machines: Machines
) -> None:
    policy(three, away=Away.SKIP)
    deployment = three.start(service_data("web"))
    for _ in range(5):
        machines.tick("lb1", "lb3")
    assert states(deployment) == {"lb1": "succeeded", "lb2": "queued", "lb3": "queued"}

    for _ in range(3):
        machines.tick("lb1", "lb3")

    assert states(deployment) == {"lb1": "succeeded", "lb2": "skipped", "lb3": "succeeded"}
    assert AuditEvent.objects.filter(action="job.skipped", facts__node="lb2").count() == 1
    assert Change.objects.get().state == "applied"


def test_the_canary_is_never_left_out(site: Site) -> None:
    policy(site, away=Away.SKIP)
    change = site.approved(service_data("web"))
    site.see_nodes("lb1", at=timezone.now() - timedelta(seconds=31))

    refusal = refusal_of(lambda: apply_change(actor=site.operator, change=change))

    assert (refusal.code, refusal.message.split(",")[0]) == ("away", "lb1 is down")


# Cancel


def test_a_cancel_says_beforehand_what_it_can_stop_and_what_it_cannot(three: Site) -> None:
    deployment = three.start(service_data("web"))
    canary, second, _ = deployment.jobs.order_by("position")
    three.run(canary)
    Job.objects.filter(pk=second.pk).update(state="running", claimed_at=timezone.now(), claimed_by="x")

    view = view_deployment(deployment=deployment).cancel

    assert view.possible
    assert view.stops == "lb3 has not begun and will not be touched."
    assert view.cannot == "lb2 is at work, which cannot be stopped: when it is done it is put back."
    assert view.puts_back == "lb1 is put back to what was live."


def test_a_cancel_while_a_node_is_at_work_stops_the_rest_and_puts_back_what_had_begun(three: Site) -> None:
    """The cancel comes while lb1's kernel is being written."""
    deployment = three.start(service_data("web"))
    canary = deployment.jobs.get(position=1)
    seen: list[str] = []

    class Interrupted(FakeKernel):
        def sync(self, **options: object) -> object:
            if not seen:  # once, and not with each family
                cancelled = cancel_deployment(actor=three.operator, deployment=deployment)
                seen.append(f"{cancelled.state} {view_deployment(deployment=cancelled).cancelling}")
            return super().sync(**options)  # type: ignore[arg-type]

    assert three.run(canary, kernel=Interrupted()) is JobState.SUCCEEDED

    deployment.refresh_from_db()
    assert seen == [
        "running Cancelled: lb2 and lb3 were stopped before anything was changed there. lb1 was at work"
        " already; when that is over, all that has changed is put back."
    ]
    assert (deployment.state, deployment.error) == (
        "cancelled",
        "Cancelled before lb2 and lb3 had begun. lb1 had, and is put back.",
    )
    assert list(Job.objects.filter(reason="converge").values_list("node__name", flat=True)) == ["lb1"]


def test_a_node_that_is_at_work_alone_cannot_be_stopped_and_the_page_says_so(site: Site) -> None:
    deployment = site.start(service_data("web"))
    site.run(deployment.jobs.get(position=1))
    deployment.jobs.filter(position=2).update(state="running", claimed_at=timezone.now())

    view = view_deployment(deployment=deployment).cancel

    assert (view.possible, view.cannot) == (
        False,
        "lb2 is at work, which cannot be stopped: when it is done it is put back.",
    )
    assert refusal_of(lambda: cancel_deployment(actor=site.operator, deployment=deployment)).code == "nothing"
