"""On record: messages and jobs that a worker would not take."""

import hashlib
from typing import Any

from balancer.models import Job, Rehearsal
from balancer.workflow import audit
from balancer.workflow.audit import Action

_EXCERPT = 120


def record_refused_message(*, queue: str, code: str, message: str, raw: bytes) -> None:
    """A message that is not one of ours. The excerpt is ASCII only: the bytes are a stranger's."""
    facts = {
        "queue": ascii(queue)[1:-1],
        "code": code,
        "message": message,
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "excerpt": ascii(raw[:_EXCERPT]),
    }
    with audit.writing():
        audit.record(actor=None, action=Action.MESSAGE_REFUSED, facts=facts)


def record_refused_job(
    *, node: str, code: str, message: str, job: Job | Rehearsal | None, **facts: Any
) -> None:
    """A job or a rehearsal that a worker was told to run and would not."""
    audit.record(
        actor=None,
        action=Action.WORKER_REFUSED,
        target=job,
        facts={"node": node, "code": code, "message": message, **facts},
    )
