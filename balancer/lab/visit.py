"""What became of connections to one service, each with its client and the place that it went to. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from balancer.domain.types import Service
from balancer.lab.client import REFUSED
from balancer.lab.places import Place
from balancer.lab.traffic import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    source: str
    place: Place
    backend: str | None
    """Who answered, at the port where it did; None where nobody did."""
    endpoint: str | None
    """The backend as its service knows it, wherever its port was moved for the place; else who answered."""
    word: str
    """The source address that the backend saw, or why it was lost."""

    @property
    def answered_itself(self) -> bool:
        """The balancer did: no rule took the connection."""
        return self.backend == self.place.endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the connections to one service."""

    visits: tuple[Visit, ...]
    answered: Mapping[str, int]
    """By `Visit.endpoint`."""
    refused: int
    lost: int
    """Those refused are not in it."""
    slowest: float

    @property
    def sent(self) -> int:
        return len(self.visits)


def count_visits(visits: Sequence[Visit], *, slowest: float) -> Counts:
    answered = Counter(visit.endpoint for visit in visits if visit.endpoint is not None)
    missing = Counter(visit.word == REFUSED for visit in visits if visit.backend is None)
    return Counts(
        visits=tuple(visits),
        answered=dict(sorted(answered.items())),
        refused=missing[True],
        lost=missing[False],
        slowest=slowest,
    )


def read_visit(
    outcome: Outcome, *, service: Service, shares: Mapping[str, Fraction], source: str, place: Place
) -> Visit:
    endpoint = outcome.backend
    if endpoint is not None:
        known = known_endpoint(endpoint, service=service, place=place)
        if known in shares:
            endpoint = known
        elif endpoint in shares:
            endpoint = f"{endpoint} for port {place.port}"
    return Visit(source=source, place=place, backend=outcome.backend, endpoint=endpoint, word=outcome.word)


def known_endpoint(endpoint: str, *, service: Service, place: Place) -> str:
    """As the service calls the backend that answers there what comes in at the place."""
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) - place.port + service.port}"


def list_places_of(visits: Sequence[Visit]) -> tuple[Place, ...]:
    return tuple(dict.fromkeys(visit.place for visit in visits))
