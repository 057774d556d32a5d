"""Shares of new connections, traced through the compiled rules."""

from dataclasses import dataclass
from fractions import Fraction

from balancer.domain.codec import parse_service
from balancer.domain.types import Document, Service
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

    @property
    def changed(self) -> bool:
        return self.before != self.after


def shares_alone(service: Service | None) -> dict[str, Fraction]:
    """Endpoint -> share for every backend of the service, those that take no connections with 0.

    Traced through the rules of the service on its own: its neighbours do not move its shares.
    """
    if service is None:
        return {}
    shares = trace_service(Document(services=(service,)), service).shares if service.enabled else {}
    return {backend.endpoint: shares.get(backend.endpoint, NOBODY) for backend in service.backends}


def share_rows(*, before: dict[str, Fraction], after: dict[str, Fraction]) -> tuple[ShareRow, ...]:
    endpoints = [*before, *(endpoint for endpoint in after if endpoint not in before)]
    return tuple(ShareRow(endpoint=e, before=before.get(e), after=after.get(e)) for e in endpoints)


def service_value(data: Data | None) -> Service | None:
    """The service that stored JSON data stand for; None also where this version cannot read them."""
    return None if data is None else parse_service(data)[0]


def joined_rulesets(rulesets: dict[str, str]) -> str:
    """The texts of all families, one after the other, in order of family."""
    return "".join(rulesets[family] for family in sorted(rulesets))
