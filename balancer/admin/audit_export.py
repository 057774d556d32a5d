"""The audit history as files: CSV for spreadsheets, JSON lines for machines and for `audit_verify --file`."""

import csv
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from balancer.domain.chain import Event
from balancer.domain.facts import canonical_json
from balancer.workflow.history import COLUMNS, export_data

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a cell that begins so for a formula (owasp.org, CSV injection)."""


class _Echo:
    """What csv writes to; hands the line back."""

    def write(self, line: str) -> str:
        return line


def write_csv(events: Iterable[Event]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    for event in events:
        data = export_data(event) | {"facts": canonical_json(event.facts)}
        yield writer.writerow([_cell(data[name]) for name in COLUMNS])


def write_json_lines(events: Iterable[Event]) -> Iterator[str]:
    for event in events:
        yield canonical_json(export_data(event)) + "\n"


WRITERS: dict[str, tuple[str, Callable[[Iterable[Event]], Iterator[str]]]] = {
    "csv": ("text/csv; charset=utf-8", write_csv),
    "jsonl": ("application/x-ndjson", write_json_lines),
}
"""Ending of the file -> its media type and its writer."""


def file_name(*, kind: str, now: datetime) -> str:
    return f"lbadmin-audit-{now:%Y%m%d-%H%M%S}.{kind}"


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
