"""Which part of all clients an address is in, as the kernel counts."""

from balancer.ruleset.hashing import SEEDS, part_of_address
from balancer.ruleset.ir import HASH_FAN_OUT


def slot_of(packed: bytes) -> int:
    """The number of the part, 0 to HASH_SLOTS - 1."""
    number = 0
    for seed in SEEDS:
        number = number * HASH_FAN_OUT + part_of_address(packed, seed)
    return number
