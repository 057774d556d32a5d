"""The audit history as it is kept: read for verification and for export; writes nothing."""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from django.db import DataError
from django.db.models import QuerySet

from balancer.domain.chain import EVENT_FIELDS, Event, Head, Unreadable, Verdict, verify_chain
from balancer.models import AuditEvent

COLUMNS = ("id", *EVENT_FIELDS)
"""Of an export, in this order."""
_CHUNK = 2_000
_CONVERSION_ERRORS = (ValueError, TypeError, AttributeError, DataError)
"""What Django and the database raise at a text that is no time or no JSON; SQLite takes any text."""


def verify_history(*, heads: Collection[Head] = ()) -> Verdict:
    """Walk the whole chain of the database, in constant memory, against heads that were kept elsewhere."""
    return verify_chain(read_events(AuditEvent.objects.all()), heads=heads)


def first_hash() -> str:
    """The first event's, by which a chain is named; empty where there is no event."""
    return AuditEvent.objects.order_by("number", "pk").values_list("hash", flat=True).first() or ""


def read_events(events: QuerySet[AuditEvent]) -> Iterator[Event]:
    """In order of their numbers. Raises Unreadable at a row that the workflow cannot have written."""
    rows = events.order_by("number", "pk").values_list(*COLUMNS)
    seen = 0
    try:
        for row in rows.iterator(chunk_size=_CHUNK):
            yield _event(row)
            seen += 1
    except _CONVERSION_ERRORS:
        # Somewhere in the rows that were fetched together. One by one they tell which it is.
        try:
            yield from map(_event, rows[seen:].iterator(chunk_size=1))
        except _CONVERSION_ERRORS as error:
            raise Unreadable(str(error)) from error


def export_data(event: Event) -> dict[str, Any]:
    """An event as JSON data, keys as in COLUMNS. `event_of_data` is the way back."""
    data = {name: getattr(event, name) for name in EVENT_FIELDS}
    return {"id": event.row, **data, "at": event.at.astimezone(UTC).isoformat(timespec="microseconds")}


def events_of_data(lines: Iterable[Any]) -> Iterator[Event]:
    """Events of an export. Raises Unreadable at data that is none."""
    for data in lines:
        if not isinstance(data, dict) or set(data) != set(COLUMNS):
            raise Unreadable("the line is not an exported event")
        try:
            at = datetime.fromisoformat(data["at"]).astimezone(UTC)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unreadable(f"its time is not one: {error}") from error
        yield _event(tuple((data | {"at": at})[name] for name in COLUMNS))


def _event(row: tuple[Any, ...]) -> Event:
    key, *values = row
    event = Event(row=key, **dict(zip(EVENT_FIELDS, values, strict=True)))
    if type(event.number) is not int or not isinstance(event.at, datetime):
        raise Unreadable("its number or its time is not one")
    return event
