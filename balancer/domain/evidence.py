"""The evidence file of a deployment: who asked for what, who agreed, what was tried and what the nodes did.

One JSON file (docs/design/evidence.md) that says all of it without this program or its database, and that
can be checked: by its own digests, by the hashes of the audit events in it, and by its SHA-256 in the chain.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from balancer.domain.chain import EVENT_FIELDS, Event, Head
from balancer.domain.codec import digest_text
from balancer.domain.diff import diff_lines, diff_services
from balancer.domain.facts import canonical_json
from balancer.domain.types import Service

FORMAT = "lbadmin-evidence"
VERSION = 1
SEALED = "evidence.sealed"
"""The audit event that holds the file's SHA-256 (facts: sha256, revision)."""
Data = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an evidence file says, as JSON data. Times are ISO 8601; a person is {"id", "name"}."""

    deployment: Data
    """id, cluster, state, requested_by, created_at, finished_at, error, waiver (null, or kind, by and reason:
    why it was applied without the approvals that the policy asks for)."""
    change: Data
    """id, title, description, kind, rollback_of, rollback_services (null: all), author, contributors,
    created_at, submitted_at, digest."""
    drafts: list[Data]
    """See `describe_draft`."""
    policy: Data
    """The approval policy, as `ApprovalPolicy.to_data` gives it."""
    operation: Data
    """How the cluster brings changes to its nodes."""
    votes: list[Data]
    """by, groups, verdict, at, digest, reason, review."""
    reviews: list[Data]
    """digest and content of what the voters were shown."""
    rehearsals: list[Data] | None
    """node, digest, state and result of each; null where none was kept."""
    revision: Data
    """number, digest, document (its text), rulesets (family -> text), author_name, created_at."""
    before: Data
    """number and digest of what was live until then."""
    jobs: list[Data]
    """id, node, state, attempts, queued_at, claimed_at, finished_at, steps, receipt (family -> receipt),
    probes, error, carried (family -> text where the node was to carry something else than the revision)."""
    late_reviews: list[Data]
    """kind, opened_by, opened_at, reason, signed_by, signed_at, comment."""
    events: list[Data]
    """Audit events of the change, its revision, the deployment and its jobs, in order."""
    head: Data
    """number and hash of the last event of the whole chain when the file was made."""


def build_evidence(parts: Parts) -> str:
    """The text of the file; equal parts give equal bytes."""
    said = {part.name: getattr(parts, part.name) for part in fields(parts)}
    content = {"format": FORMAT, "version": VERSION, **said}
    return dump_evidence({**content, "digest": digest_content(content)})


def dump_evidence(data: Any) -> str:
    """The one spelling of a file."""
    return json.dumps(data, sort_keys=True, indent=1, ensure_ascii=True) + "\n"


def digest_content(data: Data) -> str:
    """Over everything but the digest itself."""
    content = {key: value for key, value in data.items() if key != "digest"}
    return digest_text(canonical_json(content))


def hash_file(text: str) -> str:
    """What `evidence.sealed` holds, and what sha256sum(1) prints."""
    return hashlib.sha256(text.encode()).hexdigest()


def describe_draft(
    *,
    name: str,
    action: str,
    before: Data | None,
    after: Data | None,
    services: tuple[Service | None, Service | None],
    rules: tuple[str, str],
) -> Data:
    """A draft with its differences. `services` and `rules` are what `before` and `after` say, compiled."""
    return {
        "name": name,
        "action": action,
        "before": before,
        "after": after,
        "fields": [asdict(field) for field in diff_services(*services)],
        "rules_before": rules[0],
        "rules": rules[1],
        "rules_diff": [asdict(line) for line in diff_lines(*rules)],
    }


def event_to_data(event: Event) -> Data:
    data = {name: getattr(event, name) for name in EVENT_FIELDS}
    return data | {"at": event.at.astimezone(UTC).isoformat(timespec="microseconds")}


def event_of_data(data: Any) -> Event:
    """An event of a file or of an export; ValueError, TypeError or KeyError where it is none."""
    event = Event(**{name: data[name] for name in EVENT_FIELDS}, row=data.get("id"))
    if type(event.number) is not int or set(data) - {"id"} != set(EVENT_FIELDS):
        raise ValueError("it has other keys than an event, or no number")
    at = datetime.fromisoformat(data["at"])
    if at.tzinfo is None:
        raise ValueError("its time has no zone")
    return Event(**{name: data[name] for name in EVENT_FIELDS if name != "at"}, at=at, row=event.row)


def head_to_data(head: Head) -> Data:
    return {"number": head.number, "hash": head.hash}
