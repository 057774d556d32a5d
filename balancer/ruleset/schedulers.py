"""How a scheduler spreads connections over backends, as a tree of choices with exact shares.

A `Choice` is a list of branches tried in order. Every branch but the last has a condition that takes its
share of *what is left*; the last takes all. (The rules of the article that this project started from each
took their share of the whole, which loses a third of the connections.)

Long lists become trees, so that no connection walks more than a few rules at each level.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd

from balancer.domain.limits import HASH_SLOTS, scheduled
from balancer.domain.types import Backend, Scheduler, Service
from balancer.ruleset.hashing import LEVELS, SEEDS, assign, quotas
from balancer.ruleset.ir import HASH_FAN_OUT, Chance, Nth, SourceHash

Condition = Nth | Chance | SourceHash

LIST_MAX = 8
"""Branches that one chain lists before it splits."""
_FAN_OUT = 4
_FACTORS = (4, 3, 5, 2, 7)


@dataclass(frozen=True, slots=True)
class Branch:
    condition: Condition | None
    to: "Backend | Choice"


@dataclass(frozen=True, slots=True)
class Choice:
    branches: tuple[Branch, ...]


def choose(service: Service) -> Choice | None:
    """The choice among the backends that take new connections; None when there are none."""
    backends = scheduled(service)
    if not backends:
        return None
    match service.scheduler:
        case Scheduler.ROUND_ROBIN | Scheduler.FAILOVER:
            return _every_nth(cycle(backends))
        case Scheduler.SOURCE_HASH:
            return _by_source(assign(backends), level=0)
        case _:
            return _by_chance(backends)


def promised_shares(service: Service) -> dict[str, Fraction]:
    """Backend endpoint -> its share of new connections: by weight; for source-hash in whole parts of clients.

    What the rules must amount to. Backends of failover that wait for others to fail are not in it.
    """
    chosen = scheduled(service)
    weights = tuple(backend.weight for backend in chosen)
    if service.scheduler is Scheduler.SOURCE_HASH and chosen:
        weights = quotas(weights)
        assert sum(weights) == HASH_SLOTS
    return {b.endpoint: Fraction(w, sum(weights)) for b, w in zip(chosen, weights, strict=True)}


def cycle(backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    """One whole round: each backend as often as its reduced weight says, spread evenly.

    Smooth weighted round robin, the algorithm of nginx and HAProxy: at each step every backend gains its
    weight and the one that has most is taken and pays the total.
    """
    divisor = reduce(gcd, (backend.weight for backend in backends))
    weights = [backend.weight // divisor for backend in backends]
    total, credit = sum(weights), [0] * len(backends)
    taken = []
    for _ in range(total):
        credit = [have + gain for have, gain in zip(credit, weights, strict=True)]
        index = credit.index(max(credit))
        credit[index] -= total
        taken.append(backends[index])
    return tuple(taken)


def _every_nth(turns: tuple[Backend, ...]) -> Choice:
    """Packet t goes to `turns[t % n]`, in that very order.

    n turns split by a factor f of n: connection t goes to branch t % f and is the (t // f)th there, so the
    order holds at any depth. When no small factor divides n, one turn is taken off first (n - 1 is even).
    """
    left = len(turns)
    if left <= LIST_MAX:
        return Choice(tuple(Branch(_nth(left - i), turn) for i, turn in enumerate(turns)))
    for factor in _FACTORS:
        if left % factor == 0:
            parts = (turns[part::factor] for part in range(factor))
            return Choice(tuple(Branch(_nth(factor - i), _unless_one(part)) for i, part in enumerate(parts)))
    return Choice((Branch(_nth(left), turns[0]), *_every_nth(turns[1:]).branches))


def _unless_one(turns: tuple[Backend, ...]) -> Backend | Choice:
    return turns[0] if len(set(turns)) == 1 else _every_nth(turns)


def _nth(every: int) -> Nth | None:
    return Nth(every) if every > 1 else None


def _by_chance(backends: tuple[Backend, ...]) -> Choice:
    parts: list[tuple[Backend, ...]]
    if len(backends) <= LIST_MAX:
        parts = [(backend,) for backend in backends]
    else:
        size = -(-len(backends) // _FAN_OUT)
        parts = [backends[start : start + size] for start in range(0, len(backends), size)]
    branches = []
    left = sum(backend.weight for backend in backends)
    for part in parts:
        weight = sum(backend.weight for backend in part)
        statistic = Chance(Fraction(weight, left)) if weight < left else None
        branches.append(Branch(statistic, part[0] if len(part) == 1 else _by_chance(part)))
        left -= weight
    return Choice(tuple(branches))


def _by_source(parts: tuple[Backend, ...], *, level: int) -> Choice:
    """One digit of the part's number at this level; equal branches become one."""
    size = len(parts) // HASH_FAN_OUT
    branches: dict[Backend | Choice, int] = {}
    for digit in range(HASH_FAN_OUT):
        inner = parts[digit * size : (digit + 1) * size]
        one = len(set(inner)) == 1
        to = inner[0] if one or level == LEVELS - 1 else _by_source(inner, level=level + 1)
        branches[to] = branches.get(to, 0) | 1 << digit
    *first, last = branches.items()
    ipv6 = parts[0].address.version == 6
    conditions = [Branch(SourceHash(SEEDS[level], mask, ipv6), to) for to, mask in first]
    return Choice((*conditions, Branch(None, last[0])))
