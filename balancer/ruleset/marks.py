"""What the connection mark says of a connection: set in nat PREROUTING, read by every hook behind it.

docs/design/ruleset.md, "Connection mark".
"""

from collections.abc import Iterable

from balancer.domain.types import Service, SourceNat, SourceNatMode
from balancer.ruleset.targets import Mark

BALANCED = 0x10000000
MASQUERADE = 0x20000000
"""The source is rewritten: to the address of the interface, or to that of a pool where a number says so."""
REFUSE = 0x40000000
MASK = BALANCED | MASQUERADE | REFUSE

_POOL_SHIFT = 20
POOL_MASK = 0xFF << _POOL_SHIFT
"""The number of the pool, from 1; 0 is masquerade. Written only where some service has a pool."""

Pools = dict[SourceNat, int]


def pools_of(services: Iterable[Service]) -> Pools:
    """Every different source address or pool, numbered in the order of the addresses."""
    found = {s.source_nat for s in services if s.source_nat.mode is SourceNatMode.SNAT}
    ordered = sorted(found, key=lambda nat: (int(nat.address or 0), int(nat.address_end or 0)))
    return {nat: number for number, nat in enumerate(ordered, start=1)}


def balanced(service: Service, pools: Pools) -> Mark:
    """For the connections of a service that has a backend."""
    if service.source_nat.mode is SourceNatMode.NONE:
        return Mark(BALANCED, MASK)
    return rewritten(pools.get(service.source_nat, 0), pools)


def rewritten(pool: int, pools: Pools) -> Mark:
    """Balanced, and the source is to be rewritten."""
    mask = MASK | POOL_MASK if pools else MASK
    return Mark(BALANCED | MASQUERADE | pool << _POOL_SHIFT, mask)


def block_of_pools(block: int, bits: int) -> Mark:
    """Those pools whose number begins with `block`, all but the last `bits` of it."""
    mask = POOL_MASK & POOL_MASK << bits
    return Mark(BALANCED | MASQUERADE | block << _POOL_SHIFT + bits, MASK | mask)


REFUSED = Mark(REFUSE, MASK)
"""Rejected: the service has no backend."""
DENIED = Mark(REFUSE | MASQUERADE, MASK)
"""Dropped: the service does not let this client in, or not now. Neither bit means what it means elsewhere."""
