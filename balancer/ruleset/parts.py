"""Which client belongs to which backend by source-hash, without looking at any rule."""

from balancer.domain.types import Address, Backend
from balancer.ruleset.hashing import SEEDS, assign, part_of_address
from balancer.ruleset.ir import HASH_FAN_OUT


def part_of(address: Address) -> int:
    """The number of the part of all clients to which source-hash counts this one."""
    part = 0
    for seed in SEEDS:
        part = part * HASH_FAN_OUT + part_of_address(address.packed, seed)
    return part


def backend_of(address: Address, backends: tuple[Backend, ...]) -> Backend:
    """The one of the backends that take new connections which is this client's."""
    return assign(backends)[part_of(address)]
