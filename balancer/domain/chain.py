"""The chain of audit events: each holds the hash of the one before, so that none can change unnoticed.

Here are values only. Who keeps events, and who keeps a head outside the database, is elsewhere.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from balancer.domain.facts import canonical_json

GENESIS = "0" * 64
"""What the first event names as the hash before it."""
CHAIN_ID_LENGTH = 16
SEARCHED = 1_000
"""Numbers before and after a bad event among which the one that it was written with is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One audit event as it is kept. `facts` come from `plain_facts`; `hash` is empty until known."""

    number: int
    at: datetime
    actor_id: int | None
    actor_name: str
    source: str
    action: str
    object_type: str
    object_id: str
    object_label: str
    facts: Any
    previous: str
    hash: str = ""
    row: int | None = None
    """The key of its row, by which lists are ordered; not hashed, but it has to grow with the number."""


EVENT_FIELDS = tuple(field.name for field in fields(Event) if field.name != "row")
"""The names of what an event says, in rows, exports and evidence files alike; in this order."""


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """The last event of a moment. Kept elsewhere, it proves that nothing before it changed."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class Unreadable(Exception):
    """A row that is no event any more. The message says what is wrong with it."""


class FaultKind(StrEnum):
    EDITED = "edited"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    CUT = "cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first thing that is wrong: at which event, when that was (None where it is not there), and what."""

    kind: FaultKind
    number: int
    at: datetime | None
    message: str


@dataclass(slots=True)
class Verdict:
    """What a walk came to. Without a `fault` the `count` events up to `last` are what was written."""

    count: int = 0
    first: Head | None = None
    last: Head | None = None
    gaps: int = 0
    """Places where events are left out; only an export may have any."""
    fault: Fault | None = None


def hash_event(event: Event) -> str:
    """64 hexadecimal digits over everything but the hash itself and the row's key."""
    content = {
        "number": event.number,
        "at": event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor_id": event.actor_id,
        "actor_name": event.actor_name,
        "source": event.source,
        "action": event.action,
        "object_type": event.object_type,
        "object_id": event.object_id,
        "object_label": event.object_label,
        "facts": event.facts,
        "previous": event.previous,
    }
    return hashlib.sha256(canonical_json(content).encode("ascii")).hexdigest()


def chain_id(first_hash: str) -> str:
    """The name of a chain: the beginning of its first event's hash."""
    return first_hash[:CHAIN_ID_LENGTH]


def verify_chain(events: Iterable[Event], *, heads: Collection[Head] = ()) -> Verdict:
    """Walk all events in order of their numbers, against heads that were kept elsewhere; stops at a fault."""
    verdict = _walk(events, heads=heads, partial=False)
    if verdict.fault is None and heads:
        verdict.fault = _cut_tail(last=verdict.last, newest=max(heads))
    return verdict


def verify_part(events: Iterable[Event], *, heads: Collection[Head] = ()) -> Verdict:
    """Walk an export, which may leave events out: each by its own hash, and neighbours by their links."""
    return _walk(events, heads=heads, partial=True)


def _walk(events: Iterable[Event], *, heads: Collection[Head], partial: bool) -> Verdict:
    kept: dict[int, set[str]] = defaultdict(set)
    for head in heads:
        kept[head.number].add(head.hash)
    verdict, before = Verdict(), None
    try:
        for event in events:
            fault = _what_is_wrong(event, before=before, partial=partial)
            verdict.fault = fault or _differs_from_head(event, hashes=kept.get(event.number))
            if verdict.fault is not None:
                break
            _add(verdict, event, before=before)
            before = event
    except Unreadable as error:
        number = before.number + 1 if before else 1
        verdict.fault = _fault(FaultKind.EDITED, number, None, f"cannot be read any more: {error}")
    return verdict


def _add(verdict: Verdict, event: Event, *, before: Event | None) -> None:
    verdict.count += 1
    verdict.last = Head(event.number, event.hash)
    verdict.first = verdict.first or verdict.last
    if event.number != (before.number + 1 if before else 1):
        verdict.gaps += 1


def _what_is_wrong(event: Event, *, before: Event | None, partial: bool) -> Fault | None:
    expected = before.number + 1 if before else 1
    if event.number < expected:
        message = "is there twice" if before else "is before the first"
        return _fault(FaultKind.INSERTED, event.number, event.at, message)
    if event.number > expected and not partial:
        missing = _numbers(expected, event.number - 1)
        return _fault(FaultKind.MISSING, expected, None, f"is missing: {missing}, before {_moment(event.at)}")
    if hash_event(event) != event.hash:
        return _altered(event)
    return _unlinked(event, before=before) if event.number == expected else None


def _differs_from_head(event: Event, *, hashes: set[str] | None) -> Fault | None:
    if hashes is None or hashes == {event.hash}:
        return None
    message = "is not the one whose hash was kept as the head when it was written"
    return _fault(FaultKind.EDITED, event.number, event.at, message)


def _unlinked(event: Event, *, before: Event | None) -> Fault | None:
    """Whether it goes on from the one before. Where not, that one is not what this was written after."""
    if event.previous != (before.hash if before else GENESIS):
        if before is None:
            return _fault(FaultKind.MISSING, event.number, event.at, "goes on from an event before the first")
        message = f"was replaced: event {event.number} was written after one with another hash"
        return _fault(FaultKind.EDITED, before.number, before.at, message)
    if before and event.row is not None and before.row is not None and event.row <= before.row:
        message = f"stands before event {before.number} in its table and was written after it"
        return _fault(FaultKind.REORDERED, event.number, event.at, message)
    return None


def _altered(event: Event) -> Fault:
    """Its content and its hash do not fit. With another number they may: then it was moved."""
    for number in _near(event.number):
        if hash_event(replace(event, number=number)) == event.hash:
            message = f"was moved: it was written as number {number}"
            return _fault(FaultKind.REORDERED, event.number, event.at, message)
    return _fault(FaultKind.EDITED, event.number, event.at, "was edited: its content does not give its hash")


def _near(number: int) -> Iterator[int]:
    for distance in range(1, SEARCHED + 1):
        yield number + distance
        if number > distance:
            yield number - distance


def _cut_tail(*, last: Head | None, newest: Head) -> Fault | None:
    length = last.number if last else 0
    if newest.number <= length:
        return None
    missing = _numbers(length + 1, newest.number)
    message = f"is missing: {missing} cut off the end, since a head was kept of number {newest.number}"
    return _fault(FaultKind.CUT, length + 1, None, message)


def _numbers(first: int, last: int) -> str:
    return f"number {first}" if first == last else f"numbers {first} to {last}"


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(sep=" ", timespec="seconds")


def _fault(kind: FaultKind, number: int, at: datetime | None, what: str) -> Fault:
    when = f" of {_moment(at)}" if at else ""
    return Fault(kind=kind, number=number, at=at, message=f"Event {number}{when} {what}.")
