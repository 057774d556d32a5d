"""What a rehearsal is asked and what it found, as values."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from balancer.domain.types import Document
from balancer.ruleset.ir import Ruleset


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    connections: int = 400
    """At least so many to each touched service; round-robin rounds up to whole cycles."""
    connections_most: int = 10_000
    """At most so many to one service: what `random` needs grows with the number of its backends."""
    connections_in_all: int = 60_000
    """No service gets more than its part of these, unless that were below `connections`."""
    touched: int = 20
    """So many touched services are measured; of more a sample."""
    probed: int = 20
    """So many others get `probes` connections each; of more a sample."""
    probes: int = 4
    seconds: float = 60.0
    """Nothing more is sent after that; a service that is not done by then counts as not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What became of bringing the ruleset in."""

    error: str | None
    """The kernel's or its tools' own words; None when it was read back as it was meant."""
    flavour: str
    driver: str
    digest: str
    """SHA-256 of the canonical text of what the kernel carries, of several `join_digests`; empty after an
    error."""


Load = Callable[[Path, Path, tuple[Ruleset, ...], Document], Loaded]
"""(network namespace, directory for locks, a ruleset of each family, document) -> outcome: a node's own way
to its kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointResult:
    endpoint: str
    promised: Fraction
    """By weight, not by the rules that were compiled."""
    expected: float
    measured: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceResult:
    name: str
    touched: bool
    target: str
    """`tcp 100.64.2.1:80 on eth0`"""
    passed: bool
    verdict: str
    """A sentence or several, with the measured numbers."""
    sent: int
    lost: int
    """Neither answered nor, where that is promised, refused."""
    refused: int
    endpoints: tuple[EndpointResult, ...]
    strays: Mapping[str, int]
    """Whoever else answered -> connections."""
    sources: Mapping[str, int]
    """Source address that the backends saw -> connections."""
    finds: float | None
    """`random`: a share wrong by this part of itself is found 99 times of 100; None where each error is."""
    seconds: float

    def to_data(self) -> dict[str, Any]:
        shares = [
            {
                "endpoint": e.endpoint,
                "promised": str(e.promised),
                "expected": e.expected,
                "measured": e.measured,
            }
            for e in self.endpoints
        ]
        return asdict(self) | {"endpoints": shares}


@dataclass(frozen=True, slots=True, kw_only=True)
class Omitted:
    name: str
    touched: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    passed: bool
    verdict: str
    loaded: Loaded
    services: tuple[ServiceResult, ...]
    """The touched ones that were measured, then the others that were probed; each part sorted by name."""
    omitted: tuple[Omitted, ...]
    """Enabled or touched services that got no connection or not enough, with the reason; sorted by name."""
    unmeasured: tuple[Omitted, ...]
    """Touched services whose shares nobody measured, though something is promised of them; sorted by name."""
    seconds: float

    def to_data(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "error": self.loaded.error,
            "flavour": self.loaded.flavour,
            "driver": self.loaded.driver,
            "digest": self.loaded.digest,
            "services": [service.to_data() for service in self.services],
            "measured": sum(service.touched for service in self.services),
            "probed": sum(not service.touched for service in self.services),
            "omitted": [asdict(one) for one in self.omitted],
            "unmeasured": [asdict(one) for one in self.unmeasured],
            "seconds": round(self.seconds, 3),
        }
