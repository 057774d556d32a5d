"""source-hash: which clients belong to which backend, by the address of the client alone.

All clients are divided into HASH_SLOTS parts, and each part is given to one backend: as many parts to each as
its weight says, and those that it prefers before others. What a backend prefers depends on nothing but its
own address and port, so that the parts of a backend that leaves are shared out while nearly all others stay
where they are (rendezvous hashing with exact capacities: each that stays gets a little more, so a few per
cent of the others move).
"""

import hashlib
from functools import lru_cache

from balancer.domain.types import Backend
from balancer.domain.validation import HASH_SLOTS
from balancer.ruleset.ir import HASH_FAN_OUT

LEVELS = 5
"""HASH_FAN_OUT ** LEVELS is HASH_SLOTS: one digit of a part's number a level, each by a seed of its own."""
SEEDS = tuple(range(1, LEVELS + 1))
_SCORE_BYTES = 8
_SCORES_A_DIGEST = 8
_U32 = 0xFFFFFFFF
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
    """The backend of each part, by the number of the part."""
    left = list(quotas(tuple(backend.weight for backend in backends)))
    # A part goes to the backend in whose list it stands highest, the length of the list being its capacity.
    wishes = sorted(
        (rank * HASH_SLOTS // capacity, digest, index, slot)
        for index, (backend, capacity) in enumerate(zip(backends, left, strict=True))
        for rank, (digest, slot) in enumerate(_preferences(backend.endpoint))
        if capacity
    )
    taken: dict[int, Backend] = {}
    for _, _, index, slot in wishes:
        if left[index] and slot not in taken:
            taken[slot] = backends[index]
            left[index] -= 1
    return tuple(taken[slot] for slot in range(HASH_SLOTS))


def digits(slot: int) -> tuple[int, ...]:
    """The number of a part, one digit for each seed."""
    return tuple(slot // HASH_FAN_OUT ** (LEVELS - 1 - level) % HASH_FAN_OUT for level in range(LEVELS))


def part_of_address(packed: bytes, seed: int) -> int:
    """0 to HASH_FAN_OUT - 1: what xt_cluster makes of a source address, on a little-endian machine.

    Of an IPv6 address it takes the first 32 bits alone: it gives jhash2 NF_CT_TUPLE_L3SIZE / 4 words, which
    is one (net/netfilter/xt_cluster.c, include/net/netfilter/nf_conntrack_tuple.h).
    """
    return _jhash([int.from_bytes(packed[:4], "little")], seed) * HASH_FAN_OUT >> 32


def _preferences(endpoint: str) -> list[tuple[bytes, int]]:
    """All parts, the one that the backend likes best first."""
    scores = b"".join(
        hashlib.blake2b(f"{endpoint}|{block}".encode()).digest()
        for block in range(HASH_SLOTS // _SCORES_A_DIGEST)
    )
    return sorted((scores[_SCORE_BYTES * s : _SCORE_BYTES * (s + 1)], s) for s in range(HASH_SLOTS))


def _jhash(words: list[int], seed: int) -> int:
    """jhash_1word for one word, jhash2 for four (include/linux/jhash.h)."""
    length = len(words)
    a = b = c = (_JHASH_INITVAL + (length << 2) + seed) & _U32
    if length > 3:
        a, b, c = (a + words[0]) & _U32, (b + words[1]) & _U32, (c + words[2]) & _U32
        a, b, c = _mix(a, b, c)
        words = words[3:]
    a = (a + words[0]) & _U32
    return _final(a, b, c)


def _rol(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _U32


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - c) & _U32
    a, c = a ^ _rol(c, 4), (c + b) & _U32
    b = (b - a) & _U32
    b, a = b ^ _rol(a, 6), (a + c) & _U32
    c = (c - b) & _U32
    c, b = c ^ _rol(b, 8), (b + a) & _U32
    a = (a - c) & _U32
    a, c = a ^ _rol(c, 16), (c + b) & _U32
    b = (b - a) & _U32
    b, a = b ^ _rol(a, 19), (a + c) & _U32
    c = (c - b) & _U32
    c, b = c ^ _rol(b, 4), (b + a) & _U32
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _rol(b, 14)) & _U32
    a = ((a ^ c) - _rol(c, 11)) & _U32
    b = ((b ^ a) - _rol(a, 25)) & _U32
    c = ((c ^ b) - _rol(b, 16)) & _U32
    a = ((a ^ c) - _rol(c, 4)) & _U32
    b = ((b ^ a) - _rol(a, 14)) & _U32
    return ((c ^ b) - _rol(b, 24)) & _U32
