"""Field differences as people read them: one line for a backend that came or went, names instead of paths."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from balancer.admin.shares import DASH
from balancer.domain.diff import FieldChange

_BACKEND = re.compile(r"backends\[(?P<endpoint>.+)\]\.(?P<key>\w+)")
_LABELS = {
    "port_end": "Last port",
    "from_node": "From the node itself",
    "persistence.mode": "Persistence",
    "persistence.timeout": "Timeout of persistence",
    "persistence.prefix": "Clients that stay together",
    "source_nat.mode": "Source address",
    "source_nat.address": "New source address",
    "source_nat.address_end": "Last address of the pool",
    "source_nat.hairpin": "Hairpin",
    "access.allow": "Allow list",
    "access.deny": "Deny list",
    "access.new_per_second_per_source": "New connections per second",
    "access.new_burst": "Burst",
    "access.connections_per_source": "Connections of a source",
    "access.connections_per_backend": "Connections of a backend",
    "access.drop_invalid": "Drop invalid packets",
    "access.log_refused": "Log what is refused",
    "health.kind": "Health checks",
    "health.interval": "Interval of health checks",
    "health.timeout": "Timeout of a check",
    "health.rise": "Rise",
    "health.fall": "Fall",
    "health.port": "Port to check",
    "health.address": "Address to check",
    "health.method": "Method",
    "health.host": "Host",
    "health.path": "Path",
    "health.expect_status": "Expected status",
    "health.expect_body": "Expected text",
    "health.certificate_warning_days": "Warn of a certificate",
    "health.verify_certificate": "Verify the certificate",
    "health.send": "Send",
    "health.expect": "Expected answer",
    "all_down": "When all are down",
    "all_down_service": "Service that stands in",
    "healthy_min": "Least healthy share",
}

_SECONDS = {"slow_start", "persistence.timeout", "health.interval", "health.timeout"}


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
    text = backend_text(values)
    came = changes[0].before is None
    return FieldRow(f"Backend {endpoint}", DASH if came else text, text if came else DASH)


def backend_text(values: Mapping[str, Any]) -> str:
    """`weight 1, enabled`, and the priority where it is not the first."""
    priority = str(values.get("priority") or 0)
    more = f", priority {priority}" if priority != "0" else ""
    return f"weight {values.get('weight')}, {values.get('state')}{more}"


def _field_rows(changes: list[FieldChange]) -> Iterator[FieldRow]:
    for change in changes:
        before, after = (with_unit(change.path, text or DASH) for text in (change.before, change.after))
        yield FieldRow(label_of(change.path), before, after)


def with_unit(path: str, text: str) -> str:
    """A number with what it counts."""
    if path in _SECONDS and text.isdigit():
        return f"{text} second{'' if text == '1' else 's'}"
    if path == "healthy_min" and text.isdigit():
        return f"{text} %"
    return f"/{text}" if path == "persistence.prefix" and text.isdigit() else text


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
