"""What differs between two services, field by field, and between two texts, line by line."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from balancer.domain.codec import spell_out_service
from balancer.domain.fields import LATER
from balancer.domain.types import Network, Service

Kind = Literal["same", "added", "removed", "gap"]
_CONTEXT = 3
_LISTS = {"access.allow", "access.deny"}
_SHOWN_NETWORKS = 20


@dataclass(frozen=True, slots=True)
class FieldChange:
    """`path` such as `port` or `backends[10.0.0.3:80].weight`; None stands for a field that is not there."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class DiffLine:
    kind: Kind
    """A gap stands for unchanged lines that were left out; its text says how many."""
    text: str


def diff_services(before: Service | None, after: Service | None) -> tuple[FieldChange, ...]:
    """Fields that differ, in the order of the form; backends are told apart by their endpoint.

    Evidence files hold these and are verified by making them again: what a service of older keys alone gives
    must stay what it was, words included.
    """
    old, new = _flatten(before), _flatten(after)
    paths = [*old, *(path for path in new if path not in old)]
    found = (FieldChange(path, old.get(path), new.get(path)) for path in paths)
    changes = (change for change in found if change.before != change.after and not _is_unsaid(change))
    return tuple(_shortened(change, before, after) for change in changes)


def _shortened(change: FieldChange, before: Service | None, after: Service | None) -> FieldChange:
    """Of a long list of networks only what comes and goes; the rules that follow it name each."""
    if change.path not in _LISTS:
        return change
    key = change.path.partition(".")[2]
    old, new = (() if s is None else getattr(s.access, key) for s in (before, after))
    if max(len(old), len(new)) <= _SHOWN_NETWORKS:
        return change
    gone, come = sorted(set(old) - set(new), key=str), sorted(set(new) - set(old), key=str)
    return FieldChange(
        change.path,
        None if before is None else _summary(len(old), gone, "no longer there"),
        None if after is None else _summary(len(new), come, "new"),
    )


def _summary(count: int, moved: list[Network], how: str) -> str:
    if not moved:
        return f"{count} networks, none of them {how}"
    named = ", ".join(map(str, moved[:_SHOWN_NETWORKS]))
    more = f" and {len(moved) - _SHOWN_NETWORKS} more" if len(moved) > _SHOWN_NETWORKS else ""
    return f"{count} networks, {how}: {named}{more}"


def _is_unsaid(change: FieldChange) -> bool:
    """A later key that a service which comes or goes does not use."""
    usual = _UNSAID.get(change.path)
    return usual is not None and {change.before, change.after} == {None, usual}


def diff_lines(before: str, after: str) -> tuple[DiffLine, ...]:
    """A unified diff with three lines of context; empty when the texts are equal."""
    old, new = before.splitlines(), after.splitlines()
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    lines: list[DiffLine] = []
    at = 0
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        lines.extend(_gap(group[0][1] - at))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines.extend(DiffLine("same", line) for line in old[i1:i2])
                continue
            lines.extend(DiffLine("removed", line) for line in old[i1:i2])
            lines.extend(DiffLine("added", line) for line in new[j1:j2])
        at = group[-1][2]
    if lines:
        lines.extend(_gap(len(old) - at))
    return tuple(lines)


def _gap(size: int) -> Iterator[DiffLine]:
    if size > 0:
        yield DiffLine("gap", f"{size} unchanged line{'s' if size > 1 else ''}")


def _flatten(service: Service | None) -> dict[str, str]:
    if service is None:
        return {}
    data = spell_out_service(service)
    backends = data.pop("backends")
    found = {k: v for key, value in data.items() for k, v in _flat(key, value).items()}
    for backend, fields in zip(service.backends, backends, strict=True):
        rest = {key: value for key, value in fields.items() if key not in {"address", "port"}}
        found |= _flat(f"backends[{backend.endpoint}]", rest)
    return found


def _flat(path: str, value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(f"{path}.{key}", item).items()}
    return {path: show_value(value)}


def show_value(value: object) -> str:
    """A value of the document as people read it."""
    if value is None or value == [] or value == "":
        return "(none)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


# critical was there before the first evidence file.
_UNSAID = {path: show_value(default) for path, default in LATER.items() if path != "critical"}
