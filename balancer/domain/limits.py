"""Limits of a document that more than its checks must know, and what follows from a service's weights."""

from functools import reduce
from math import gcd

from balancer.domain.types import Access, Backend, Family, Scheduler, Service

MAX_BACKENDS = 1024
MAX_ROUND_ROBIN_SLOTS = 1024
HASH_SLOTS = 1024
"""Parts into which source-hash divides all clients."""
SLOW_START_STEPS = 8
"""Steps in which a backend rises to its whole weight."""
MAX_POOLS = 255
"""Different source addresses or pools of one family, as many as the connection mark can tell apart."""
MAX_NETWORKS = 20_000
"""Entries of an allow or deny list."""
MAX_NEW_PER_SECOND = 10_000
MAX_NEW_BURST = 100_000
BURST_SECONDS = 60
"""A source is remembered until its burst has come back: a long burst would fill the kernel's table."""
MIN_BURST = 5
"""A browser begins six connections or so at once."""
SOURCE_BITS = {Family.IPV4: 32, Family.IPV6: 64}
"""What counts as one source: over IPv6 a whole /64, since every host of one has all of its addresses."""
BITS = {Family.IPV4: 32, Family.IPV6: 128}
SLOW_STARTERS = frozenset({Scheduler.RANDOM, Scheduler.LEAST_CONNECTIONS})
"""Their shares can be anything, so that a weight can rise in small steps."""


def round_robin_slots(weights: tuple[int, ...]) -> int:
    """Connections in one whole cycle: the weights divided by their greatest common divisor, added up."""
    return sum(weights) // reduce(gcd, weights) if weights else 0


def rate_of_kernel(per_second: int) -> int:
    """The rate that the kernel keeps: it counts whole millionths of a second between two connections
    (XT_HASHLIMIT_SCALE_v2 in net/netfilter/xt_hashlimit.c). Exact up to 1,000."""
    return 1_000_000 // (1_000_000 // per_second)


def burst_of(access: Access) -> int:
    """New connections that a source may begin at once: what was said, or those of a second."""
    if access.new_burst is not None:
        return access.new_burst
    return max(access.new_per_second_per_source or 0, MIN_BURST)


def scheduled(service: Service) -> tuple[Backend, ...]:
    """The backends among which new clients are spread: of failover, those of the lowest priority number."""
    usable = service.usable_backends
    if service.scheduler is not Scheduler.FAILOVER or not usable:
        return usable
    first = min(backend.priority for backend in usable)
    return tuple(backend for backend in usable if backend.priority == first)
