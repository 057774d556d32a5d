"""Traffic shares as people read them: an exact fraction, a percentage, and the length of a bar."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from balancer.domain.types import Service
from balancer.workflow.queries import ShareRow
from balancer.workflow.traffic import parts_of, shares_alone, standby_of

DASH = "\N{EN DASH}"
"""Stands for what is not there."""
_PERCENT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True, slots=True)
class Share:
    endpoint: str
    fraction: Fraction
    state: str
    weight: int
    standby: bool = False
    parts: int = 0

    @property
    def text(self) -> str:
        return describe_share(self.fraction, parts=self.parts, standby=self.standby)

    @property
    def width(self) -> str:
        """For a style attribute: with a point whatever the language is."""
        return f"{float(self.fraction) * 100:.2f}"


def shares_of(service: Service) -> tuple[Share, ...]:
    """Every backend with the share that the compiled rules give it; zero where it takes no connections."""
    shares, waiting, parts = shares_alone(service), standby_of(service), parts_of(service)
    return tuple(
        Share(
            b.endpoint,
            shares[b.endpoint],
            str(b.state),
            b.weight,
            standby=service.enabled and b.endpoint in waiting,
            parts=parts,
        )
        for b in service.backends
    )


def format_percent(fraction: Fraction) -> str:
    """`25 %`, `33.33 %`: two places at most, none that say nothing. A line never begins with the sign."""
    if 0 < fraction < Fraction(1, 10_000):
        return f"< 0.01{_PERCENT}"
    return f"{float(fraction) * 100:.2f}".rstrip("0").rstrip(".") + _PERCENT


def describe_share(share: Fraction, *, parts: int = 0, standby: bool = False) -> str:
    """`1/4 · 25 %`; `0 %` where a fraction would say no more. Of a whole of `parts`: `256/1024 · 25 %`."""
    if not share:
        return "standby" if standby else f"0{_PERCENT}"
    whole = parts if (share * parts).denominator == 1 else 0
    counted = f"{share * whole}/{whole}" if whole else str(share)
    return f"{counted} · {format_percent(share)}"


@dataclass(frozen=True, slots=True)
class ShareMove(ShareRow):
    """A backend's share before and after, in words."""

    @property
    def before_text(self) -> str:
        return _shown(self.before, self.parts)

    @property
    def after_text(self) -> str:
        return "standby" if self.standby else _shown(self.after, self.parts)

    @property
    def width(self) -> str:
        return f"{float(self.after or 0) * 100:.2f}"


def compare_shares(rows: Iterable[ShareRow]) -> tuple[ShareMove, ...]:
    return tuple(ShareMove(row.endpoint, row.before, row.after, row.standby, row.parts) for row in rows)


def _shown(share: Fraction | None, parts: int) -> str:
    return DASH if share is None else describe_share(share, parts=parts)
