"""Rehearsals in words: what was measured on a node, beside what is promised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from django.utils.safestring import SafeString

from balancer.admin import chips

_SOURCES = 3


@dataclass(frozen=True, slots=True)
class EndpointRow:
    endpoint: str
    promised: str
    measured: str


@dataclass(frozen=True, slots=True)
class ServiceRow:
    name: str
    target: str
    passed: bool
    verdict: str
    sent: str
    lost: str
    sources: str
    """Addresses that the backends saw."""
    endpoints: tuple[EndpointRow, ...]
    finds: str


@dataclass(frozen=True, slots=True)
class RehearsalRow:
    node: str
    on: str
    chip: SafeString
    current: bool
    """Of what the change proposes now."""
    at: datetime
    waits_for: str
    error: str
    """Why it was not loaded or could not be made; empty otherwise."""
    verdict: str
    loaded: bool
    services: tuple[ServiceRow, ...]
    """Those that the change touches."""
    probed: tuple[ServiceRow, ...]
    omitted: tuple[str, ...]
    seconds: str
    ruleset: str


def describe_rehearsals(rehearsals: Iterable[Mapping[str, Any]]) -> tuple[RehearsalRow, ...]:
    """Of JSON data as `workflow.rehearsed.show_rehearsals` gives it and a review keeps it."""
    return tuple(_describe(one) for one in rehearsals)


def _describe(one: Mapping[str, Any]) -> RehearsalRow:
    result = one["result"] or {}
    services = [(_describe_service(service), service["touched"]) for service in result.get("services", ())]
    return RehearsalRow(
        node=one["node"],
        on=one["on"],
        chip=chips.work_chip(one["state"]),
        current=one["current"],
        at=datetime.fromisoformat(one["ended_at"] or one["asked_at"]),
        waits_for=one["waits_for"],
        error=one["error"] or result.get("error") or "",
        verdict=result.get("verdict", ""),
        loaded=bool(result) and result["error"] is None,
        services=tuple(row for row, touched in services if touched),
        probed=tuple(row for row, touched in services if not touched),
        omitted=tuple(f"{left['name']}: {left['reason']}" for left in result.get("omitted", ())),
        seconds=f"{result['seconds']:.1f} s" if result else "",
        ruleset=result.get("digest", ""),
    )


def _describe_service(service: Mapping[str, Any]) -> ServiceRow:
    finds = service["finds"]
    return ServiceRow(
        name=service["name"],
        target=service["target"],
        passed=service["passed"],
        verdict=service["verdict"],
        sent=f"{service['sent']:,}",
        lost=f"{service['lost']:,}",
        sources=_some(sorted(service["sources"])),
        endpoints=tuple(_describe_endpoint(end, sent=service["sent"]) for end in service["endpoints"]),
        finds="" if finds is None else f"{100 * finds:.0f} %",
    )


def _describe_endpoint(end: Mapping[str, Any], *, sent: int) -> EndpointRow:
    promised = Fraction(end["promised"])
    measured = end["measured"] / sent if sent else 0.0
    return EndpointRow(
        endpoint=end["endpoint"],
        promised=f"{100 * float(promised):.2f} %",
        measured=f"{100 * measured:.2f} % ({end['measured']:,})",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SOURCES} more" if len(names) > _SOURCES else ""
    return ", ".join(names[:_SOURCES]) + more
