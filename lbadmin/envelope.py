"""What may come out of the broker: four kinds of hint, and nothing else. Pure.

Whoever can write to the broker can put any bytes there. A hint that is recognised is written anew from the
few values that matter, so that nothing else of a stranger's message (headers, time limits, callbacks, a
priority, a reply address) reaches Celery.
"""

import base64
import binascii
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SIZE_MAX = 16 * 1024
"""Bytes. Our own messages have about 900."""
JSON_TYPE = "application/json"

TASKS: Mapping[str, int] = {
    "balancer.tasks.apply_job": 1,
    "balancer.tasks.rehearse": 1,
    "balancer.tasks.confirm_job": 1,
    "balancer.tasks.node_tick": 0,
}
"""Task -> how many arguments it has; each is a row's UUID."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Something may be waiting in the rows."""

    task: str
    args: tuple[str, ...]
    expires: datetime | None = None

    def is_expired(self, *, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now


class NotAHint(ValueError):
    """A message that we do not take. `code` is stable; the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_hint(raw: bytes) -> Hint:
    """The hint in an item of a queue, as it lies in Redis; raises NotAHint for all other bytes."""
    if len(raw) > SIZE_MAX:
        raise NotAHint("too-big", f"A message of {len(raw)} bytes is larger than {SIZE_MAX}.")
    envelope = _object(_json(raw, "message"), "The message")
    headers = _object(envelope.get("headers"), "The header of the message")
    task = headers.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise NotAHint("unknown-task", f"There is no task {_shown(task)}.")
    _require_plain(envelope, headers)
    args = _read_args(_body(envelope), count=TASKS[task])
    return Hint(task=task, args=args, expires=_read_time(headers.get("expires")))


def write_envelope(hint: Hint, *, queue: str, message_id: str) -> bytes:
    """The same hint as Celery's message protocol 2 on kombu's virtual transport wants it."""
    body = json.dumps(
        [list(hint.args), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    )
    envelope = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": JSON_TYPE,
        "headers": {"lang": "py", "task": hint.task, "id": message_id, "root_id": message_id},
        "properties": {
            "correlation_id": message_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": message_id,
        },
    }
    return json.dumps(envelope).encode()


def _require_plain(envelope: dict[str, Any], headers: dict[str, Any]) -> None:
    """No content but JSON, and nothing that would postpone, repeat, limit or continue the task."""
    kind = (envelope.get("content-type"), envelope.get("content-encoding"), headers.get("compression"))
    if kind != (JSON_TYPE, "utf-8", None):
        raise NotAHint("content-type", f"The content type {_shown(kind[0])} is not taken; only JSON is.")
    limits = headers.get("timelimit")
    if headers.get("eta") or headers.get("retries") or (limits is not None and limits != [None, None]):
        raise NotAHint("options", "The message asks for a delay, a repetition or a time limit.")


def _body(envelope: dict[str, Any]) -> Any:
    properties = _object(envelope.get("properties"), "The properties of the message")
    body = envelope.get("body")
    if properties.get("body_encoding") != "base64" or not isinstance(body, str):
        raise NotAHint("not-an-envelope", "The message has no body in base64.")
    try:
        return _json(base64.b64decode(body, validate=True), "body of the message")
    except (binascii.Error, ValueError) as error:
        if isinstance(error, NotAHint):
            raise
        raise NotAHint("not-an-envelope", "The body of the message is not base64.") from error


def _read_args(body: Any, *, count: int) -> tuple[str, ...]:
    if not (isinstance(body, list) and len(body) == 3):
        raise NotAHint("arguments", "The body of the message is not a list of arguments.")
    args, kwargs, rest = body
    if kwargs != {} or not isinstance(rest, dict) or any(rest.values()):
        raise NotAHint("arguments", "The message has named arguments or tasks to go on with.")
    if not isinstance(args, list) or len(args) != count or not all(_is_uuid(arg) for arg in args):
        raise NotAHint(
            "arguments", f"The task takes {count} job id{'' if count == 1 else 's'} and nothing else."
        )
    return tuple(args)


def _read_time(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise NotAHint("options", f"The message expires at {_shown(value)}, which is not a time.")
    return found


def _is_uuid(value: object) -> bool:
    """In the one spelling that we use."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _json(raw: bytes, what: str) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NotAHint("not-json", f"The {what} is not JSON in UTF-8.") from error


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotAHint("not-an-envelope", f"{what} is not a JSON object.")
    return value


def _shown(value: object) -> str:
    return ascii(value)[:80]
