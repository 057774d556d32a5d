"""Two people edited one thing: who changed what meanwhile, and where both changed the same, in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from balancer.admin.field_words import FieldRow, backend_text, describe_fields, label_of, with_unit
from balancer.admin.shares import DASH
from balancer.domain.diff import diff_services, show_value
from balancer.domain.merge import Clash
from balancer.workflow.overtaken import Overtaken
from balancer.workflow.traffic import service_value


@dataclass(frozen=True, slots=True)
class ClashRow:
    """One field that both sides changed, for a table."""

    path: str
    label: str
    base: str
    theirs: str
    mine: str


@dataclass(frozen=True, slots=True)
class OvertakenWords:
    message: str
    by: str
    gone: bool
    changed: tuple[FieldRow, ...]
    """What the other person alone changed since the form was opened."""
    clashes: tuple[ClashRow, ...]


def describe_overtaken(refusal: Overtaken) -> OvertakenWords:
    clashes = describe_clashes(refusal.merge.clashes)
    changed = describe_fields(diff_services(service_value(refusal.seen), service_value(refusal.now)))
    both = {clash.label for clash in clashes}
    return OvertakenWords(
        message=refusal.message,
        by=refusal.by,
        gone=refusal.now is None,
        changed=tuple(row for row in changed if row.label not in both),
        clashes=clashes,
    )


def describe_clashes(clashes: Iterable[Clash]) -> tuple[ClashRow, ...]:
    return tuple(
        ClashRow(c.path, label_of(c.path), *(_shown(c.path, side) for side in (c.base, c.theirs, c.mine)))
        for c in clashes
    )


def _shown(path: str, value: Any) -> str:
    """A service or a backend is shown as being there, with what matters of it."""
    if value is None:
        return DASH
    if isinstance(value, dict):
        if "weight" in value:
            return backend_text(value)
        return "there, as changed"
    return with_unit(path, show_value(value))
