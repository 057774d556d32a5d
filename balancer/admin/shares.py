"""Traffic shares as people read them: an exact fraction, a percentage, and the length of a bar."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from balancer.domain.types import Document, Service
from balancer.ruleset.trace import trace_service
from balancer.workflow.queries import ShareRow

DASH = "\N{EN DASH}"
"""Stands for what is not there."""
_PERCENT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True, slots=True)
class Share:
    endpoint: str
    fraction: Fraction
    state: str
    weight: int

    @property
    def text(self) -> str:
        return describe_share(self.fraction)

    @property
    def width(self) -> str:
        """For a style attribute: with a point whatever the language is."""
        return f"{float(self.fraction) * 100:.2f}"


def shares_of(service: Service) -> tuple[Share, ...]:
    """Every backend with the share that the compiled rules give it; zero where it takes no connections."""
    found = trace_service(Document(services=(service,)), service).shares if service.enabled else {}
    return tuple(
        Share(b.endpoint, found.get(b.endpoint, Fraction(0)), str(b.state), b.weight)
        for b in service.backends
    )


def format_percent(fraction: Fraction) -> str:
    """`25 %`, `33.33 %`: two places at most, none that say nothing. A line never begins with the sign."""
    if 0 < fraction < Fraction(1, 10_000):
        return f"< 0.01{_PERCENT}"
    return f"{float(fraction) * 100:.2f}".rstrip("0").rstrip(".") + _PERCENT


def describe_share(share: Fraction) -> str:
    """`1/4 · 25 %`; `0 %` where a fraction would say no more."""
    return f"{share} · {format_percent(share)}" if share else f"0{_PERCENT}"


@dataclass(frozen=True, slots=True)
class ShareMove:
    """A backend's share before and after."""

    endpoint: str
    before: Fraction | None
    """None where the backend is not there."""
    after: Fraction | None

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def before_text(self) -> str:
        return _shown(self.before)

    @property
    def after_text(self) -> str:
        return _shown(self.after)

    @property
    def width(self) -> str:
        return f"{float(self.after or 0) * 100:.2f}"


def compare_shares(rows: Iterable[ShareRow]) -> tuple[ShareMove, ...]:
    return tuple(ShareMove(row.endpoint, row.before, row.after) for row in rows)


def _shown(share: Fraction | None) -> str:
    return DASH if share is None else describe_share(share)
