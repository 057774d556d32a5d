"""Connections at stake, in words: one row for a backend on a node, and what becomes of its connections."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_FATES = {
    "stay": "stay",
    "cut": "will be cut",
    "stay-until-they-end": "stay until they end",
    "flushed": "will be sent elsewhere",
}
_KINDS = {"tcp": ("established connection", "established connections"), "udp": ("flow", "flows")}


@dataclass(frozen=True, slots=True)
class StakeRow:
    service: str
    backend: str
    node: str
    count: str
    fate: str
    harsh: bool
    """Somebody will notice."""
    why_unknown: str
    observed_at: str


def describe_stakes(stakes: Iterable[Mapping[str, Any]]) -> tuple[StakeRow, ...]:
    """Of JSON data as a review keeps them (`reviews.Shown.stakes`)."""
    return tuple(_describe(stake) for stake in stakes)


def _describe(stake: Mapping[str, Any]) -> StakeRow:
    count = stake["count"]
    one, many = _KINDS.get(stake["protocol"], ("connection", "connections"))
    return StakeRow(
        service=stake["service"],
        backend=stake["backend"] or "the machine itself",
        node=stake["node"],
        count="not known" if count is None else f"{count:,} {one if count == 1 else many}",
        fate=_FATES[stake["fate"]] if count != 0 else "",
        harsh=stake["fate"] in {"cut", "flushed"} and count != 0,
        why_unknown=stake["why_unknown"],
        observed_at=stake["observed_at"] or "",
    )
