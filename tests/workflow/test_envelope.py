"""The door: which bytes from the broker become a hint."""

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbadmin.broker import broker_settings
from lbadmin.celery import app
from lbadmin.envelope import Hint, NotAHint, read_hint, write_envelope

JOB = str(uuid.uuid4())
APPLY = Hint(task="balancer.tasks.apply_job", args=(JOB,))


def envelope(hint: Hint = APPLY) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(write_envelope(hint, queue="node.lb1", message_id=str(uuid.uuid4())))
    return found


def raw(data: Any) -> bytes:
    return json.dumps(data).encode()


def body(*parts: Any) -> str:
    return base64.b64encode(json.dumps(list(parts)).encode()).decode()


def as_celery_sends(task: str, args: list[str], **options: Any) -> bytes:
    """An item of the Redis list as Celery's own producer and kombu's Redis channel make it."""
    message = app.amqp.create_task_message(str(uuid.uuid4()), task, args, {}, **options)
    text = json.dumps(message.body).encode()
    properties = message.properties | {"delivery_info": {}, "body_encoding": "base64", "delivery_tag": "x"}
    return raw(
        {
            "body": base64.b64encode(text).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": message.headers,
            "properties": properties,
        }
    )


@pytest.mark.parametrize("hint", [APPLY, Hint(task="balancer.tasks.node_tick", args=())])
def test_our_own_messages_pass(hint: Hint) -> None:
    assert read_hint(as_celery_sends(hint.task, list(hint.args))) == hint
    assert read_hint(raw(envelope(hint))) == hint


def test_a_tick_that_nobody_fetched_in_time_is_known_to_be_late() -> None:
    hint = read_hint(as_celery_sends("balancer.tasks.node_tick", [], expires=10))

    assert not hint.is_expired(now=datetime.now(UTC))
    assert hint.is_expired(now=datetime.now(UTC) + timedelta(seconds=11))


def forged(**changes: Any) -> bytes:
    """Our own message with keys replaced; `headers__task` reaches into an object."""
    data = envelope()
    for path, value in changes.items():
        *above, last = path.split("__")
        place = data
        for key in above:
            place = place[key]
        place[last.replace("_", "-") if last.startswith("content") else last] = value
    return raw(data)


REST = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "not-json"),
        (b"\x80\x04\x95pickle", "not-json"),
        (b"\xff\xfe\x00", "not-json"),
        (b"[" * 10_000, "not-json"),
        (b"1" * 5_000, "not-json"),
        (b"null", "not-an-envelope"),
        (b'"text"', "not-an-envelope"),
        (b"[1, 2]", "not-an-envelope"),
        (b"{}", "not-an-envelope"),
        (raw({"headers": []}), "not-an-envelope"),
        (forged(properties=None), "not-an-envelope"),
        (forged(body=None), "not-an-envelope"),
        (forged(body="not base64!"), "not-an-envelope"),
        (forged(body=base64.b64encode(b"junk").decode()), "not-json"),
        (forged(properties__body_encoding=None), "not-an-envelope"),
        (b'{"a": "' + b"x" * 20_000 + b'"}', "too-big"),
        (forged(headers__task="balancer.tasks.run_anything"), "unknown-task"),
        (forged(headers__task="celery.chain"), "unknown-task"),
        (forged(headers__task=None), "unknown-task"),
        (forged(headers__task={"a": 1}), "unknown-task"),
        (forged(headers__task="balancer.tasks.node_tick"), "arguments"),
        (forged(content_type="application/x-python-serialize"), "content-type"),
        (forged(content_type="application/x-yaml"), "content-type"),
        (forged(content_encoding="binary"), "content-type"),
        (forged(headers__compression="application/x-gzip"), "content-type"),
        (forged(headers__timelimit=[0.01, None]), "options"),
        (forged(headers__eta="2099-01-01T00:00:00+00:00"), "options"),
        (forged(headers__retries=3), "options"),
        (forged(headers__expires="soon"), "options"),
        (forged(headers__expires=5), "options"),
        (forged(headers__expires="2099-01-01T00:00:00"), "options"),
        (forged(body=body([], {}, REST)), "arguments"),
        (forged(body=body([JOB, JOB], {}, REST)), "arguments"),
        (forged(body=body([JOB.upper()], {}, REST)), "arguments"),
        (forged(body=body(["1"], {}, REST)), "arguments"),
        (forged(body=body([7], {}, REST)), "arguments"),
        (forged(body=body([[JOB]], {}, REST)), "arguments"),
        (forged(body=body([JOB], {"node": "lb2"}, REST)), "arguments"),
        (forged(body=body([JOB], {}, REST | {"chain": [{"task": "x"}]})), "arguments"),
        (forged(body=body([JOB], {}, REST | {"callbacks": [{"task": "x"}]})), "arguments"),
        (forged(body=body([JOB], {}, None)), "arguments"),
        (forged(body=body([JOB], {})), "arguments"),
        (forged(body=base64.b64encode(b'{"args": []}').decode()), "arguments"),
    ],
)
def test_everything_else_is_refused_with_a_code(message: bytes, code: str) -> None:
    with pytest.raises(NotAHint) as refused:
        read_hint(message)

    assert refused.value.code == code


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_door_down(message: bytes) -> None:
    with pytest.raises(NotAHint):
        read_hint(message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(
    st.sampled_from(["body", "headers", "properties", "content-type", "headers__task", "headers__expires"]),
    JSON,
)
def test_no_json_in_the_place_of_ours_brings_the_door_down(path: str, value: Any) -> None:
    try:
        hint = read_hint(forged(**{path: value}))
    except NotAHint:
        return
    assert hint.args == APPLY.args


def test_nothing_of_a_strangers_message_but_task_and_job_is_passed_on() -> None:
    stranger = envelope() | {"secret": 1}
    stranger["headers"] |= {"reply_to": "x", "shadow": "evil", "group": "g", "stamps": {"a": 1}, "id": "evil"}
    stranger["properties"] |= {"reply_to": "x", "priority": 9, "delivery_tag": "evil"}

    clean = write_envelope(read_hint(raw(stranger)), queue="node.lb1", message_id="new")

    assert not {"evil", "secret", "reply_to"} & set(clean.decode().replace('"', " ").split())
    assert read_hint(clean) == APPLY


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis+socket:///run/x.sock", {"broker_url": "lbadmin+socket:///run/x.sock"}),
        ("redis://h:1/2", {"broker_url": "redis://h:1/2", "broker_transport": "lbadmin"}),
    ],
)
def test_every_way_to_redis_leads_through_our_transport(url: str, expected: dict[str, str]) -> None:
    assert broker_settings(url) == expected


def test_tls_checks_certificates() -> None:
    assert broker_settings("rediss://h:1/2")["broker_use_ssl"] == {"ssl_cert_reqs": "required"}


@pytest.mark.parametrize("url", ["amqp://h", "memory://", "h:6379", ""])
def test_another_broker_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="LBADMIN_REDIS_URL"):
        broker_settings(url)
