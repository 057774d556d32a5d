"""Shares of new connections, traced through the compiled rules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from balancer.domain.codec import parse_service
from balancer.domain.limits import HASH_SLOTS, scheduled
from balancer.domain.types import Document, Scheduler, Service
from balancer.ruleset.trace import trace_service
from balancer.workflow.documents import Data

NOBODY = Fraction(0)


@dataclass(frozen=True, slots=True)
class ShareRow:
    """The exact share of new connections that a backend gets, traced through the compiled rules."""

    endpoint: str
    before: Fraction | None
    """None where the backend (or the service) is not there."""
    after: Fraction | None
    standby: bool = False
    """Afterwards it waits for the others to fail."""
    parts: int = 0
    """Into which source-hash divides all clients; 0 for another scheduler."""

    @property
    def changed(self) -> bool:
        return self.before != self.after


def shares_alone(service: Service | None) -> dict[str, Fraction]:
    """Endpoint -> share for every backend of the service, those that take no connections with 0.

    Traced through the rules of the service on its own: its neighbours do not move its shares.
    """
    if service is None:
        return {}
    shares = _traced(service) if service.enabled else {}
    return {backend.endpoint: shares.get(backend.endpoint, NOBODY) for backend in service.backends}


def standby_of(service: Service) -> frozenset[str]:
    """The endpoints of those that would take connections if the ones before them did not."""
    first = scheduled(service)
    return frozenset(backend.endpoint for backend in service.usable_backends if backend not in first)


def parts_of(service: Service | None) -> int:
    """Into how many parts the service divides its clients; 0 where its shares are not made of parts."""
    hashes = service is not None and service.scheduler is Scheduler.SOURCE_HASH
    return HASH_SLOTS if hashes else 0


def share_rows(*, before: Service | None, after: Service | None) -> tuple[ShareRow, ...]:
    old, new = shares_alone(before), shares_alone(after)
    endpoints = [*old, *(endpoint for endpoint in new if endpoint not in old)]
    return mark_rows((ShareRow(endpoint=e, before=old.get(e), after=new.get(e)) for e in endpoints), after)


def mark_rows(rows: Iterable[ShareRow], after: Service | None) -> tuple[ShareRow, ...]:
    """The rows with what the service says about the shares in them."""
    waiting, parts = standby_of(after) if after is not None and after.enabled else (), parts_of(after)
    return tuple(replace(row, standby=row.endpoint in waiting, parts=parts) for row in rows)


@lru_cache(maxsize=256)
def _traced(service: Service) -> Mapping[str, Fraction]:
    return trace_service(Document(services=(service,)), service).shares


def service_value(data: Data | None) -> Service | None:
    """The service that stored JSON data stand for; None also where this version cannot read them."""
    return None if data is None else parse_service(data)[0]


def joined_rulesets(rulesets: dict[str, str]) -> str:
    """The texts of all families, one after the other, in order of family."""
    return "".join(rulesets[family] for family in sorted(rulesets))
