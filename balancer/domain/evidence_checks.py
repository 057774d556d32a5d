"""Whether an evidence file holds together, and whether it is the one that was sealed. Never raises."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from balancer.domain import evidence_decision as decision
from balancer.domain import evidence_history as history
from balancer.domain.evidence import FORMAT, VERSION, Data, Parts, digest_content, event_of_data, hash_file
from balancer.domain.evidence_findings import UNREADABLE, Finding, require, run_check, why


def verify_evidence(data: Any) -> tuple[Finding, ...]:
    """Checks that need nothing but the file. `data` is what its JSON says, whatever that is."""
    return tuple(run_check(name, check, data) for name, check in _CHECKS)


def verify_seal(*, text: str, data: Any, export: Iterable[Any]) -> tuple[Finding, ...]:
    """Checks against the audit history: `export` holds the lines of a whole and later export, as data."""
    try:
        events = [event_of_data(line) for line in export]
    except UNREADABLE as error:
        return (
            Finding(
                check="export",
                passed=False,
                text=f"The export holds a line that is no audit event: {why(error)}.",
            ),
        )
    by_number = {event.number: event for event in events}
    return (
        run_check("export", lambda _: history.check_export(events), data),
        run_check("events-in-export", lambda found: history.check_in_export(found, by_number), data),
        run_check("seal", lambda found: history.check_seal(found, events, sha256=hash_file(text)), data),
    )


def check_format(data: Any) -> str:
    known = {"format", "version", "digest", *(field.name for field in fields(Parts))}
    require(
        isinstance(data, dict) and data.get("format") == FORMAT,
        f"This is no evidence file: it does not call itself “{FORMAT}”.",
    )
    version = data.get("version")
    require(
        version == VERSION and type(version) is int,
        f"The file is of version {version!r}; this program reads {VERSION}.",
    )
    require(set(data) == known, f"Parts are missing or unknown: {', '.join(sorted(set(data) ^ known))}.")
    return f"It is an evidence file of version {VERSION} with all its parts."


def check_digest(data: Data) -> str:
    require(
        data["digest"] == digest_content(data), "The file was altered: its content does not give its digest."
    )
    return f"The content gives the file's digest {data['digest'][:16]}…"


_CHECKS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("format", check_format),
    ("digest", check_digest),
    ("revision", decision.check_revision),
    ("drafts", decision.check_drafts),
    ("proposal", decision.check_proposal),
    ("approvals", decision.check_approvals),
    ("late-reviews", decision.check_late_reviews),
    ("reviews", decision.check_reviews),
    ("rehearsals", decision.check_rehearsals),
    ("receipts", history.check_receipts),
    ("events", history.check_events),
    ("story", history.check_story),
)
