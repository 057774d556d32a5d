"""source-hash: which clients belong to which backend, by the address of the client alone.

All clients are divided into HASH_SLOTS parts, and each part is given to one backend: as many parts to each as
its weight says, and those that it prefers before others. What a backend prefers depends on nothing but its
own address and port, so that the parts of a backend that leaves are shared out while nearly all others stay
where they are (rendezvous hashing with exact capacities: each that stays gets a little more, so a few per
cent of the others move).
"""

import hashlib
import struct
from collections.abc import Container, Iterator
from functools import lru_cache
from heapq import heapify, heappop, heapreplace

from balancer.domain.limits import HASH_SLOTS
from balancer.domain.types import Backend
from balancer.ruleset.address_bpf import mix
from balancer.ruleset.ir import HASH_FAN_OUT

LEVELS = 5
"""HASH_FAN_OUT ** LEVELS is HASH_SLOTS: one digit of a part's number a level, each by a seed of its own."""
SEEDS = tuple(range(1, LEVELS + 1))
_SCORES_A_DIGEST = 8
_U32 = 0xFFFFFFFF
_IPV6_LENGTH = 16
_JHASH_INITVAL = 0xDEADBEEF


def quotas(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Parts for each weight: proportional, rounded so that they add up to HASH_SLOTS; at least one for each.

    Valid weights (validation) earn at least one part each.
    """
    total = sum(weights)
    shares = [HASH_SLOTS * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(HASH_SLOTS * weights[i] % total), i))
    for index in by_remainder[: HASH_SLOTS - sum(shares)]:
        shares[index] += 1
    return tuple(shares)


@lru_cache(maxsize=256)
def assign(backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    """The backend of each part, by the number of the part.

    A part goes to the backend in whose list it stands highest, the length of the list being its capacity.
    All wishes are looked at in that order, but each backend tells its next one only when that is due, and
    none once it has what it is owed: of a million wishes of 1,024 backends, some ten thousand.
    """
    left = list(quotas(tuple(backend.weight for backend in backends)))
    taken: dict[int, Backend] = {}
    wishes = [
        _wishes(index, capacity=capacity, endpoint=backend.endpoint, taken=taken)
        for index, (backend, capacity) in enumerate(zip(backends, left, strict=True))
        if capacity
    ]
    due = [(next(mine), mine) for mine in wishes]
    heapify(due)
    while len(taken) < HASH_SLOTS:
        (_, _, index, slot), mine = due[0]
        if slot not in taken:
            taken[slot] = backends[index]
            left[index] -= 1
        if left[index]:
            heapreplace(due, (next(mine), mine))
        else:
            heappop(due)
    return tuple(taken[slot] for slot in range(HASH_SLOTS))


def part_of_address(packed: bytes, seed: int) -> int:
    """0 to HASH_FAN_OUT - 1: what the kernel makes of a source address.

    IPv4 is divided by xt_cluster, here as on a little-endian machine; IPv6 by a program of ours.
    """
    if len(packed) == _IPV6_LENGTH:
        return mix(packed, seed)
    return _jhash_1word(int.from_bytes(packed[:4], "little"), seed) * HASH_FAN_OUT >> 32


def _wishes(
    index: int, *, capacity: int, endpoint: str, taken: Container[int]
) -> Iterator[tuple[int, int, int, int]]:
    """What a backend would like, in order: (how much, its score, `index`, part). Skips what others took."""
    scores = _scores(endpoint)
    for rank, slot in enumerate(sorted(range(HASH_SLOTS), key=scores.__getitem__)):
        if slot not in taken:
            yield rank * HASH_SLOTS // capacity, scores[slot], index, slot


def _scores(endpoint: str) -> tuple[int, ...]:
    """For each part how little the backend likes it."""
    digests = b"".join(
        hashlib.blake2b(f"{endpoint}|{block}".encode()).digest()
        for block in range(HASH_SLOTS // _SCORES_A_DIGEST)
    )
    return struct.unpack(f">{HASH_SLOTS}Q", digests)


def _jhash_1word(word: int, seed: int) -> int:
    """include/linux/jhash.h: the final mix of (word, 0, 0), each with the initial value added."""
    b = c = (_JHASH_INITVAL + 4 + seed) & _U32
    a = (b + word) & _U32
    c = ((c ^ b) - _rol(b, 14)) & _U32
    a = ((a ^ c) - _rol(c, 11)) & _U32
    b = ((b ^ a) - _rol(a, 25)) & _U32
    c = ((c ^ b) - _rol(b, 16)) & _U32
    a = ((a ^ c) - _rol(c, 4)) & _U32
    b = ((b ^ a) - _rol(a, 14)) & _U32
    return ((c ^ b) - _rol(b, 24)) & _U32


def _rol(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _U32
