"""Field differences as people read them: one line for a backend that came or went, names instead of paths."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from balancer.admin.shares import DASH
from balancer.domain.diff import FieldChange

_BACKEND = re.compile(r"backends\[(?P<endpoint>.+)\]\.(?P<key>\w+)")
_LABELS = {
    "port_end": "Last port",
    "source_nat.mode": "Source address",
    "access.drop_invalid": "Drop invalid packets",
    "all_down": "When all are down",
}


@dataclass(frozen=True, slots=True)
class FieldRow:
    label: str
    before: str
    after: str


def describe_fields(changes: Iterable[FieldChange]) -> tuple[FieldRow, ...]:
    rows: list[FieldRow] = []
    for endpoint, group in groupby(changes, key=_endpoint_of):
        found = list(group)
        whole = endpoint and (all(c.before is None for c in found) or all(c.after is None for c in found))
        rows.extend([_backend_row(endpoint, found)] if whole else _field_rows(found))
    return tuple(rows)


def _endpoint_of(change: FieldChange) -> str:
    match = _BACKEND.fullmatch(change.path)
    return match["endpoint"] if match else ""


def _backend_row(endpoint: str, changes: list[FieldChange]) -> FieldRow:
    values = {c.path.rpartition(".")[2]: c.after if c.before is None else c.before for c in changes}
    text = f"weight {values.get('weight')}, {values.get('state')}"
    came = changes[0].before is None
    return FieldRow(f"Backend {endpoint}", DASH if came else text, text if came else DASH)


def _field_rows(changes: list[FieldChange]) -> Iterator[FieldRow]:
    for change in changes:
        yield FieldRow(label_of(change.path), change.before or DASH, change.after or DASH)


def label_of(path: str) -> str:
    """The name of a field of the document, as the form has it."""
    match = _BACKEND.fullmatch(path)
    if match:
        return f"Backend {match['endpoint']}, {match['key']}"
    if path.startswith("backends["):
        return f"Backend {path.removeprefix('backends[').removesuffix(']')}"
    if not path:
        return "The whole service"
    return _LABELS.get(path) or path.replace(".", ", ").replace("_", " ").capitalize()
