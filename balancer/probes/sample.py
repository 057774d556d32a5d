"""Which services are asked when there are too many."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, zip_longest

from balancer.domain.types import Service

SERVICES_MAX = 50


def draw_sample(services: Iterable[Service]) -> tuple[tuple[Service, ...], int]:
    """At most SERVICES_MAX, sorted by name, and how many were left out. Equal services, equal samples.

    Each kind (interface, family, source NAT, scheduler) in turn; within a kind in an order that has nothing
    to do with the names', so that nobody's services are always the ones left out.
    """
    kinds: dict[tuple[str, ...], list[Service]] = defaultdict(list)
    for service in services:
        kinds[service.interface, service.family, service.source_nat.mode, service.scheduler].append(service)
    piles = [sorted(kinds[key], key=_shuffle) for key in sorted(kinds)]
    mixed = [service for service in chain(*zip_longest(*piles)) if service is not None]
    chosen = sorted(mixed[:SERVICES_MAX], key=lambda service: service.name)
    return tuple(chosen), len(mixed) - len(chosen)


def _shuffle(service: Service) -> bytes:
    return hashlib.sha256(repr(service).encode()).digest()
