"""From the button to the kernel, through a real broker and real workers."""

import pytest
from django.db import connection, transaction

from balancer.kernel.base import Flavour
from balancer.models import Job, Node
from balancer.workflow.deployments import apply_change
from balancer.workflow.queue import NODE_TICK
from balancer.workflow.rollback import roll_back_to
from lbadmin.celery import app
from lbadmin.envelope import read_hint
from lbadmin.schedule import BACKLOG_MAX, NodeScheduler
from tests.documents import service_data
from tests.kernel.machine import Namespace, save
from tests.stack.machinery import Stack
from tests.stack.site import LEGACY, NFT, carries_live, events, make_site, wait_for_end, wait_for_worker

both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@both_databases
def test_two_nodes_apply_and_roll_back_with_both_drivers(stack: Stack) -> None:
    site = make_site("lb1", "lb2")
    places = {"lb1": (Namespace(), Flavour.LEGACY), "lb2": (Namespace(), Flavour.NFT)}
    stack.worker("lb1", inside=places["lb1"][0], **LEGACY)
    stack.worker("lb2", inside=places["lb2"][0], **NFT)
    for node in places:
        wait_for_worker(node, stack=stack)

    first = wait_for_end(site.start(service_data("web")))
    second = wait_for_end(site.start(service_data("web", scheduler="random"), service_data("mail", port=25)))
    back = site.approve(roll_back_to(actor=site.operator, revision=first.revision))
    third = wait_for_end(apply_change(actor=site.operator, change=back))

    assert [d.state for d in (first, second, third)] == ["succeeded"] * 3, third.error
    assert third.revision.rulesets == first.revision.rulesets
    for inside, flavour in places.values():
        assert carries_live(site, inside=inside, flavour=flavour)
        with inside.entered():
            assert "LB-S-web" in save(flavour)
            assert "LB-S-mail" not in save(flavour)
    drivers = {node.name: node.facts["driver"] for node in Node.objects.all()}
    assert drivers == {"lb1": "python-iptables", "lb2": "iptables-restore"}
    assert set(Job.objects.values_list("state", flat=True)) == {"succeeded"}
    assert events("worker.refused") == []
    for inside, _ in places.values():
        inside.close()


def test_a_lost_message_costs_one_tick(stack: Stack, namespace: Namespace) -> None:
    site = make_site("lb1")
    stack.worker("lb1", inside=namespace, **NFT)
    stack.beat()
    wait_for_worker("lb1", stack=stack)

    with transaction.atomic():
        deployment = site.start(service_data("web"))
        # What would have been sent at the commit is lost.
        connection.run_on_commit = []

    assert wait_for_end(deployment).state == "succeeded"


def test_a_broker_that_comes_back_empty_loses_nothing(stack: Stack, namespace: Namespace) -> None:
    site = make_site("lb1")
    deployment = site.start(service_data("web"))
    stack.broker.flushall()

    stack.worker("lb1", inside=namespace, **NFT)
    stack.beat()

    assert wait_for_end(deployment).state == "succeeded"


def test_ticks_do_not_pile_up_for_a_node_that_is_away(stack: Stack) -> None:
    make_site("lb1")
    beat = NodeScheduler(app)

    for _ in range(10):
        beat.tick()

    assert stack.broker.llen("node.lb1") == BACKLOG_MAX + 1
    assert read_hint(stack.broker.rpop("node.lb1")).task == NODE_TICK
    beat.close()


def test_beat_goes_on_when_broker_or_database_are_away(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    make_site("lb1")
    beat = NodeScheduler(app)
    stack.broker.set("node.lb1", "not a list")
    beat.tick()
    assert "No ticks were sent" in caplog.text

    stack.broker.delete("node.lb1")
    beat.tick()

    assert stack.broker.llen("node.lb1") == 1
    beat.close()
