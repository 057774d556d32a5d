"""Two people's edits of one service, brought together: a three-way merge over its fields.

Services are JSON data as `service_to_data` gives them; None is a service that is not there. What only one
side has changed is taken from that side. What both have changed, and differently, is a clash, which a person
decides. Backends are told apart by their endpoint, so that the order of rows means nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from balancer.domain.types import Access, Health, Persistence, Service, SourceNat, format_endpoint, keys_of

Data = dict[str, Any]
_MISSING = object()
_SECTIONS = {"persistence": Persistence, "source_nat": SourceNat, "access": Access, "health": Health}
_WHOLE = ""
"""The path of a clash about whether the service is there at all."""


class Side(StrEnum):
    MINE = "mine"
    THEIRS = "theirs"


@dataclass(frozen=True, slots=True)
class Clash:
    """One field that both sides changed. A value of None is a field, backend or service that is not there."""

    path: str
    """`port`, `access.drop_invalid`, `backends[10.0.0.3:80].weight`, or empty for the whole service."""
    base: Any
    theirs: Any
    mine: Any


@dataclass(frozen=True, slots=True)
class Merge:
    data: Data | None
    """What comes of it; where there is a clash that nobody has decided, with my value."""
    clashes: tuple[Clash, ...]
    """In the order of the fields; those that were decided are no longer among them."""


def merge_service(
    *,
    base: Data | None,
    theirs: Data | None,
    mine: Data | None,
    choices: Mapping[str, Side] | None = None,
) -> Merge:
    """Bring both edits of `base` together. `choices` decides clashes by their path."""
    merger = _Merger(choices or {})
    if theirs is None or mine is None or base is None:
        data = merger.merge_value(_WHOLE, base, theirs, mine)
        return Merge(data=data, clashes=tuple(merger.clashes))
    merged = merger.merge_fields("", base, theirs, mine, leave={"backends", *_SECTIONS})
    for section, kind in _SECTIONS.items():
        part = merger.merge_fields(f"{section}.", base[section], theirs[section], mine[section])
        merged[section] = _in_order(part, kind)
    merged["backends"] = merger.merge_backends(base["backends"], theirs["backends"], mine["backends"])
    return Merge(data=_in_order(merged, Service), clashes=tuple(merger.clashes))


def endpoint_of(backend: Data) -> str:
    return format_endpoint(address=ip_address(backend["address"]), port=backend["port"])


class _Merger:
    def __init__(self, choices: Mapping[str, Side]) -> None:
        self._choices = choices
        self.clashes: list[Clash] = []

    def merge_value(self, path: str, base: Any, theirs: Any, mine: Any) -> Any:
        if mine == theirs or theirs == base:
            return mine
        if mine == base:
            return theirs
        choice = self._choices.get(path)
        if choice is None:
            self.clashes.append(Clash(path, _shown(base), _shown(theirs), _shown(mine)))
        return theirs if choice is Side.THEIRS else mine

    def merge_fields(
        self, prefix: str, base: Data, theirs: Data, mine: Data, *, leave: Iterable[str] = ()
    ) -> Data:
        merged = {}
        for key in dict.fromkeys((*mine, *theirs, *base)):
            if key in leave:
                continue
            sides = (side.get(key, _MISSING) for side in (base, theirs, mine))
            value = self.merge_value(f"{prefix}{key}", *sides)
            if value is not _MISSING:
                merged[key] = value
        return merged

    def merge_backends(self, base: list[Data], theirs: list[Data], mine: list[Data]) -> list[Data]:
        olds, others, owns = ({endpoint_of(b): b for b in side} for side in (base, theirs, mine))
        merged = []
        for endpoint in dict.fromkeys((*owns, *others, *olds)):
            sides = (olds.get(endpoint), others.get(endpoint), owns.get(endpoint))
            backend = self._merge_backend(f"backends[{endpoint}]", *sides)
            if backend is not None:
                merged.append(backend)
        return sorted(
            merged, key=lambda b: (ip_address(b["address"]).version, int(ip_address(b["address"])), b["port"])
        )

    def _merge_backend(self, path: str, base: Data | None, theirs: Data | None, mine: Data | None) -> Any:
        if theirs is None or mine is None:
            return self.merge_value(path, base, theirs, mine)
        # Both have added it: field by field, against no older value.
        return self.merge_fields(f"{path}.", base or {}, theirs, mine)


def _shown(value: Any) -> Any:
    return None if value is _MISSING else value


def _in_order(merged: Data, kind: type) -> Data:
    """Keys in the order in which services spell them, so that equal content has equal JSON text too."""
    return {key: merged[key] for key in keys_of(kind) if key in merged}
