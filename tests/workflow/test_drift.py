"""Drift: seen, kept with time and lines, put back by the policy of the cluster, and never in a fight."""

from itertools import pairwise
from typing import Any

import pytest
from django.contrib.auth.models import User

from balancer.kernel.base import Rejected
from balancer.kernel.fake import FakeKernel
from balancer.models import AuditEvent, Cluster, DriftEvent, Job
from balancer.workflow.confirming import ConfirmProbe
from balancer.workflow.drift import put_ours_back
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import refusal_of
from tests.workflow.ticking import Worker, converged, damage, reboot

BLOCK = "-s 203.0.113.9/32 -j DROP"
OURS = "-j LB-FORWARD"


@pytest.fixture
def worker(site: Site) -> Worker:
    """The service web is live, and its node was seen to carry it."""
    worker = Worker(site)
    site.deploy(service_data("web"))
    worker.tick()
    return worker


@pytest.fixture
def asked(worker: Worker) -> Worker:
    """Where the policy asks people first, the rules of the node were changed."""
    Cluster.objects.update(on_drift="ask")
    damage(worker.site)
    worker.tick(after=20)
    return worker


def block_before_ours(worker: Worker) -> None:
    worker.site.kernels["lb1"].snapshot.table("filter").chains["FORWARD"] = (BLOCK, OURS)


def forward_of(worker: Worker) -> tuple[str, ...]:
    return worker.site.kernels["lb1"].snapshot.table("filter").chains["FORWARD"]


def actions_of(worker: Worker) -> list[str]:
    events = AuditEvent.objects.filter(object_type="node", object_id=str(worker.node.pk))
    return list(events.exclude(action="worker.started").order_by("number").values_list("action", flat=True))


def event() -> DriftEvent:
    return DriftEvent.objects.get()


def put_back(worker: Worker, person: User) -> DriftEvent:
    return put_ours_back(actor=person, node=worker.node, event_id=event().pk)


def test_what_somebody_changed_is_put_back_at_once_and_kept_with_its_lines(worker: Worker) -> None:
    good = worker.site.own_rules("lb1")
    damage(worker.site)

    worker.tick(after=10)

    assert worker.site.own_rules("lb1") == good
    found = event()
    assert (found.seen_at, found.how, found.ended_at) == (worker.now, "put-back", worker.now)
    assert found.lines == [line for line in found.lines if line.startswith("+ nat: -A LB-S-web")]
    assert len(found.lines) == 1
    job = Job.objects.get(reason="converge")
    assert (job.cause, found.job) == ("Drift: 1 line differed from revision 1.", job)
    assert worker.node.in_sync is True
    assert actions_of(worker)[-2:] == ["node.drifted", "node.mended"]
    for action in ("node.drifted", "node.mended"):
        facts = AuditEvent.objects.get(action=action).facts
        assert (facts["lines"], facts["number"]) == (found.lines, 1)


def test_where_the_policy_asks_first_it_is_shown_and_left(asked: Worker) -> None:
    damaged = asked.site.own_rules("lb1")
    for _ in range(5):
        asked.tick(after=30)

    assert (asked.site.own_rules("lb1"), converged(asked.site)) == (damaged, [])
    assert (asked.node.in_sync, event().ended_at) == (False, None)
    assert actions_of(asked).count("node.drifted") == 1


def test_an_operator_has_it_put_back(asked: Worker, operator: User) -> None:
    put_back(asked, operator)
    asked.tick()

    assert (asked.node.in_sync, event().how, converged(asked.site)) == (True, "asked", ["succeeded"])
    assert event().asked_by == operator
    assert "operator asked to put ours back" in Job.objects.get(reason="converge").cause
    assert actions_of(asked)[-3:] == ["node.drifted", "node.mending_asked", "node.mended"]


def test_nobody_but_an_operator_has_it_put_back(asked: Worker, viewer: User, stranger: User) -> None:
    for person in (asked.site.author, asked.site.approver, viewer, stranger):
        refusal = refusal_of(lambda person=person: put_back(asked, person))
        assert (person, refusal.code) == (person, "forbidden")

    assert event().asked_at is None
    assert actions_of(asked)[-4:] == ["node.mending_asked.refused"] * 4


def test_what_is_over_cannot_be_put_back(asked: Worker, operator: User) -> None:
    put_back(asked, operator)
    asked.tick()

    assert refusal_of(lambda: put_back(asked, operator)).code == "state"
    asked.site.cluster.nodes.update(enabled=False)
    DriftEvent.objects.update(ended_at=None)
    assert refusal_of(lambda: put_back(asked, operator)).code == "away"


def test_what_goes_by_itself_is_over(asked: Worker) -> None:
    good = asked.site.kernels["lb2"].snapshot.table("nat").chains
    asked.site.kernels["lb1"].snapshot.table("nat").chains.update(good)
    asked.tick(after=30)

    assert (event().how, asked.node.in_sync, converged(asked.site)) == ("gone", True, [])
    assert actions_of(asked)[-1] == "node.in_sync"


def test_a_difference_that_grows_keeps_its_first_moment_and_shows_its_latest_lines(asked: Worker) -> None:
    first = event()
    asked.site.kernels["lb1"].snapshot.table("filter").chains["FORWARD"] = ()
    asked.tick(after=30)

    assert (event().seen_at, event().changed_at) == (first.seen_at, asked.now)
    assert event().lines == ["+ filter: -A FORWARD -j LB-FORWARD", *first.lines]


def test_a_flushed_table_of_a_big_cluster_is_shortened(worker: Worker) -> None:
    Cluster.objects.update(on_drift="ask")
    chains = worker.site.kernels["lb1"].snapshot.table("nat").chains
    chains["LB-S-web"] = tuple(f"-s 10.1.{i // 250}.{i % 250}/32 -j DROP" for i in range(1000))
    worker.tick(after=20)

    assert (len(event().lines), event().size) == (400, 1006)
    assert len(worker.node.sync_detail.splitlines()) == 400


def test_a_worker_that_starts_again_goes_on_asking(asked: Worker) -> None:
    damaged = asked.site.own_rules("lb1")
    asked.restart()
    asked.tick()
    asked.tick()

    assert (asked.site.own_rules("lb1"), event().ended_at) == (damaged, None)


def test_a_reboot_asks_nobody(asked: Worker) -> None:
    reboot(asked.site)
    asked.restart()
    asked.tick()

    assert asked.site.own_rules("lb1") == asked.site.own_rules("lb2")


def fight(worker: Worker, *pauses: float) -> list[float]:
    """Another program takes a rule out before each tick; the moments at which the node put it back."""
    begun, found = worker.now, []
    good = worker.site.own_rules("lb1")["nat"]["LB-S-web"]
    for pause in pauses:
        if len(worker.site.own_rules("lb1")["nat"]["LB-S-web"]) == len(good):
            damage(worker.site)
        worker.tick(after=pause)
        if len(worker.site.own_rules("lb1")["nat"]["LB-S-web"]) == len(good):
            found.append((worker.now - begun).total_seconds())
    return found


def test_a_fight_with_another_program_becomes_slow_and_names_it(worker: Worker) -> None:
    worker.site.kernels["lb1"].programs = ("firewalld",)

    moments = fight(worker, 10, 10, 10, *[60] * 70)

    assert moments[:3] == [10, 20, 30]
    waits = [b - a for a, b in pairwise(moments[2:])]
    assert waits[:4] == [60, 120, 240, 480]
    assert all(240 <= wait <= 900 for wait in waits[4:]), "the first ones are forgiven, the others are not"
    held = DriftEvent.objects.filter(held_until__isnull=False).first()
    assert held is not None
    assert "firewalld" in held.culprits
    assert AuditEvent.objects.filter(action="node.mending_held").exists()


def test_what_is_held_can_be_put_back_by_a_person_at_once(worker: Worker, operator: User) -> None:
    fight(worker, 10, 10, 10)
    damage(worker.site)
    worker.tick(after=10)
    held = DriftEvent.objects.get(ended_at=None)
    assert held.held_until is not None

    put_ours_back(actor=operator, node=worker.node, event_id=held.pk)
    worker.tick()

    assert worker.node.in_sync is True


def test_what_cannot_be_put_back_is_tried_less_and_less_often(worker: Worker) -> None:
    class Refusing(FakeKernel):
        def sync(self, **_: object) -> Any:
            raise Rejected("Not today.")

    refusing = Refusing()
    refusing.snapshot, refusing.forwarding = worker.site.kernels["lb1"].snapshot, True
    worker.site.kernels["lb1"] = refusing
    damage(worker.site)
    for _ in range(30):
        worker.tick(after=60)

    assert 6 <= len(converged(worker.site)) <= 12, "half an hour of ticks"
    assert DriftEvent.objects.filter(ended_at=None).count() == 1


def test_during_a_deployment_elsewhere_it_is_seen_and_put_back_afterwards(worker: Worker) -> None:
    deployment = worker.site.start(service_data("dns", protocol="udp", port=53))
    worker.site.run(deployment.jobs.get(node__name="lb1"))
    damage(worker.site)
    worker.tick(after=20)
    worker.tick(after=20)
    assert (worker.node.in_sync, converged(worker.site)) == (False, [])
    assert event().revision == deployment.revision

    worker.site.run(deployment.jobs.get(node__name="lb2"))
    worker.tick(after=20)

    assert (worker.node.in_sync, event().how) == (True, "put-back")


def test_while_an_apply_waits_for_its_confirm_nothing_is_put_back(worker: Worker) -> None:
    Cluster.objects.update(confirm="manual")
    worker.confirm = lambda *_: (ConfirmProbe("services", False, "No answer."),)
    deployment = worker.site.start(service_data("dns", protocol="udp", port=53))
    worker.site.run(deployment.jobs.get(node__name="lb1"), confirm=worker.confirm)
    damage(worker.site)
    damaged = worker.site.own_rules("lb1")

    worker.tick(after=20)

    assert (worker.site.own_rules("lb1"), converged(worker.site)) == (damaged, [])


def test_a_deployment_that_comes_first_puts_it_right(asked: Worker) -> None:
    asked.site.deploy(service_data("dns", protocol="udp", port=53))

    assert (event().how, asked.node.in_sync) == ("deployed", True)


def test_forwarding_that_was_turned_off_is_drift(worker: Worker) -> None:
    kernel = worker.site.kernels["lb1"]
    kernel.forwarding = False
    worker.tick(after=10)

    assert kernel.forwarding
    assert (event().lines, event().how) == (["+ sysctl: net.ipv4.ip_forward=1"], "put-back")


def test_rules_of_others_before_ours_are_named_and_our_jump_is_left(worker: Worker) -> None:
    block_before_ours(worker)
    for _ in range(3):
        worker.tick(after=20)

    assert forward_of(worker) == (BLOCK, OURS)
    assert (event().kind, event().lines) == ("order", [f"filter: -A FORWARD {BLOCK}"])
    assert (worker.node.in_sync, converged(worker.site)) == (True, [])
    assert actions_of(worker)[-1] == "node.behind"


def test_our_jump_goes_first_when_an_operator_asks_for_it(worker: Worker, operator: User) -> None:
    block_before_ours(worker)
    worker.tick(after=20)

    put_back(worker, operator)
    worker.tick()

    assert forward_of(worker) == (OURS, BLOCK)
    assert event().how == "asked"
    worker.tick(after=20)
    assert DriftEvent.objects.count() == 1


def test_another_job_does_not_move_our_jump(worker: Worker) -> None:
    block_before_ours(worker)
    worker.tick(after=20)
    damage(worker.site)
    worker.tick(after=20)
    worker.site.deploy(service_data("dns", protocol="udp", port=53))

    assert forward_of(worker) == (BLOCK, OURS)
    assert DriftEvent.objects.get(ended_at=None).kind == "order"
