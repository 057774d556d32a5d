"""Whoever can write to the broker cannot change the kernel, stop the worker, or go unnoticed."""

import base64
import json
import pickle
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from balancer.kernel.base import Flavour
from balancer.models import AuditEvent, Deployment, Job, Node
from balancer.workflow.revisions import live_revision
from balancer.workflow.submissions import submit_change
from lbadmin.celery import app
from lbadmin.envelope import Hint, write_envelope
from tests.cast import Site
from tests.documents import service_data
from tests.kernel.machine import Namespace, save
from tests.stack.machinery import Process, Stack, eventually
from tests.stack.site import NFT, carries_live, events, make_site, wait_for_end, wait_for_worker

APPLY, TICK = "balancer.tasks.apply_job", "balancer.tasks.node_tick"


class Attack:
    """A worker that carries one live revision, and somebody who can write to its broker."""

    def __init__(self, *, stack: Stack, site: Site, worker: Process, inside: Namespace) -> None:
        self.stack, self.site, self.worker, self.inside = stack, site, worker, inside

    def rules(self) -> str:
        with self.inside.entered():
            return save(Flavour.NFT)

    def push(self, item: bytes) -> None:
        self.stack.broker.lpush("node.lb1", item)

    def send(self, task: str, *args: str) -> None:
        self.push(message(task, *args))


@pytest.fixture
def attack(stack: Stack, namespace: Namespace) -> Attack:
    site = make_site("lb1")
    worker = stack.worker("lb1", inside=namespace, **NFT)
    wait_for_worker("lb1", stack=stack)
    assert wait_for_end(site.start(service_data("web"))).state == "succeeded"
    return Attack(stack=stack, site=site, worker=worker, inside=namespace)


def message(task: str, *args: str) -> bytes:
    return write_envelope(Hint(task=task, args=args), queue="node.lb1", message_id=str(uuid.uuid4()))


def altered(**headers: Any) -> bytes:
    data = json.loads(message(APPLY, str(uuid.uuid4())))
    data["headers"] |= headers
    return json.dumps(data).encode()


def with_body(body: bytes, *, content_type: str = "application/json") -> bytes:
    data = json.loads(message(APPLY, str(uuid.uuid4())))
    data |= {"body": base64.b64encode(body).decode(), "content-type": content_type}
    return json.dumps(data).encode()


JUNK = {
    "bytes": b"\x00\xff\xfe junk",
    "text": b"hello",
    "nothing": b"",
    "json that is no object": b"[1, 2, 3]",
    "an empty object": b"{}",
    "null headers": b'{"headers": null, "body": null, "properties": null}',
    "a million brackets": b"[" * 1_000_000,
    "an unknown task": altered(task="os.system"),
    "one of celery's own tasks": altered(task="celery.chain"),
    "a task with a time limit": altered(timelimit=[0.001, 0.001]),
    "a task for the year 2099": altered(eta="2099-01-01T00:00:00+00:00"),
    "a pickle": with_body(pickle.dumps(print), content_type="application/x-python-serialize"),
    "a pickle that says it is json": with_body(pickle.dumps(print)),
    "no arguments": with_body(b"[[], {}, {}]"),
    "named arguments": with_body(b'[[], {"job_id": "x"}, {}]'),
    "a chain": with_body(b'[["' + str(uuid.uuid4()).encode() + b'"], {}, {"chain": [{"task": "x"}]}]'),
}


def test_no_junk_stops_the_worker_or_goes_unnoticed(attack: Attack) -> None:
    before, children = attack.rules(), attack.worker.children()

    for item in JUNK.values():
        attack.push(item)

    eventually(lambda: len(events("message.refused")) >= len(JUNK), what="an event for every message")
    assert len(events("message.refused")) == len(JUNK)
    assert (attack.rules(), attack.worker.runs, attack.worker.children()) == (before, True, children)
    assert_still_works(attack)


def unapproved_change(attack: Attack) -> str:
    """A job that somebody got into the table for a change nobody has approved."""
    from balancer.workflow import audit
    from balancer.workflow.documents import candidate_document
    from balancer.workflow.revisions import create_revision

    site = attack.site
    change = submit_change(actor=site.author, change=site.change(service_data("web", port=666)))
    with audit.writing():
        revision = create_revision(actor=None, change=change, document=candidate_document(change))
    deployment = Deployment.objects.create(
        cluster=site.cluster,
        revision=revision,
        change=change,
        requested_by=site.author,
        created_at=change.created_at,
    )
    change.state = "applying"
    change.save()
    return str(_job(revision=revision, deployment=deployment, reason="deploy").pk)


def other_revision(attack: Attack) -> str:
    """A convergence to a revision that is not live."""
    attack.site.deployed = attack.site.start(service_data("web", port=81))  # type: ignore[attr-defined]
    wait_for_end(attack.site.deployed)  # type: ignore[attr-defined]
    old = attack.site.cluster.revisions.get(number=1)
    return str(_job(revision=old, deployment=None, reason="converge").pk)


def other_node(attack: Attack) -> str:
    from balancer.workflow.clusters import create_node

    node = create_node(actor=None, cluster=attack.site.cluster, name="lb2")
    return str(
        _job(revision=live_revision(attack.site.cluster), deployment=None, reason="converge", node=node).pk
    )


def replay(attack: Attack) -> str:
    old = Job.objects.get()
    wait_for_end(attack.site.start(service_data("web", port=81)))
    return str(old.pk)


def invented(attack: Attack) -> str:
    return str(uuid.uuid4())


def _job(*, revision: Any, deployment: Any, reason: str, node: Node | None = None) -> Job:
    return Job.objects.create(
        node=node or Node.objects.get(name="lb1"),
        revision=revision,
        deployment=deployment,
        reason=reason,
        queued_at=revision.created_at,
    )


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (unapproved_change, "not-genuine"),
        (other_revision, "not-genuine"),
        (other_node, "other-node"),
        (replay, "ended"),
        (invented, "unknown-job"),
    ],
)
def test_a_job_that_is_not_to_be_run_is_refused(
    attack: Attack, make: Callable[[Attack], str], code: str
) -> None:
    job_id = make(attack)
    before = attack.rules()

    attack.send(APPLY, job_id)

    eventually(lambda: events("worker.refused"), what="an event")
    assert [event["code"] for event in events("worker.refused")] == [code]
    assert attack.rules() == before
    assert carries_live(attack.site, inside=attack.inside, flavour=Flavour.NFT)


def test_a_job_id_sent_to_another_task_is_refused(attack: Attack) -> None:
    before = attack.rules()

    attack.send(TICK, str(Job.objects.get().pk))

    (event,) = eventually(lambda: events("message.refused"), what="an event")
    assert event["code"] == "arguments"
    assert attack.rules() == before


def test_what_lies_in_kombus_own_keys_is_not_read(attack: Attack) -> None:
    """Unacknowledged messages and bindings are where kombu's own Redis channel would trip over junk."""
    broker = attack.stack.broker
    broker.hset("unacked", "x", b"junk")
    broker.zadd("unacked_index", {"x": 0})
    broker.sadd("_kombu.binding.node.lb1", b"junk")
    broker.publish("/0.celery.pidbox", b"junk")
    broker.publish("/0.celeryev", b"junk")

    with app.connection_for_read() as connection:
        # What the worker's event loop calls now and then.
        connection.default_channel.qos.restore_visible(interval=1)

    assert broker.hget("unacked", "x") == b"junk"
    assert_still_works(attack)


def test_a_key_of_the_wrong_type_does_not_stop_the_node(attack: Attack) -> None:
    broker = attack.stack.broker
    broker.delete("node.lb1")
    broker.set("node.lb1", "not a list")

    (event,) = eventually(lambda: events("message.refused"), what="an event")
    assert (event["code"], broker.type("node.lb1") != b"string") == ("not-a-queue", True)
    assert_still_works(attack)


def assert_still_works(attack: Attack) -> None:
    deployment = wait_for_end(attack.site.start(service_data("web", description=str(uuid.uuid4()))))
    assert (deployment.state, attack.worker.runs) == ("succeeded", True)
    assert not AuditEvent.objects.filter(action="job.requeued").exists()
