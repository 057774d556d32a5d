"""Weights that a node moves itself, inside what was approved: least-connections and slow start (ADR 0014).

A backend's share stays within `ENVELOPE` of its declared one, both ways. Weights are whole numbers on a finer
scale, `WHOLE` for each unit of declared weight, and always add up to the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

from balancer.domain.limits import SLOW_START_STEPS

WHOLE = 256
"""Parts of one unit of declared weight."""
ENVELOPE = 4
"""A share is never less than a fourth of what is declared, nor more than four times that."""
STEP_UP, STEP_DOWN = 3, 2
"""Damping: in one step a weight moves by the factor 3/2 at most, either way."""
NOTICE_PERCENT = 10
"""Hysteresis: a smaller change of a share is not worth a commit."""
PRIOR = 4
"""Connections a backend that are taken for chance: with few of them, weights hardly move."""
GAIN, TREND, LEAK = 0.3, 0.5, 1 / 16
"""What an imbalance, its change since the last look and the way back to what is declared weigh. Whatever the
connections' length (a first-order lag between weights and counts), this rings out with a damping of at least
0.55 and keeps LEAK / (LEAK + GAIN), about a sixth, of the (logarithmic) imbalance of plain weights."""

Weights = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One backend that takes new connections, as it was found at two looks."""

    declared: int
    """As approved, or as an override set it."""
    weight: int
    """In force."""
    aim: int
    """Where the weight is going; in force once that makes a difference worth a commit."""
    count: int
    """Established connections now."""
    before: int | None = None
    """At the last look; None where that is too long ago to tell a trend."""


def declared_weights(declared: Iterable[int]) -> Weights:
    """Weights as declared, on the scale of those that move."""
    return tuple(weight * WHOLE for weight in declared)


def fit_weights(wanted: Sequence[float], declared: Sequence[int]) -> Weights:
    """Whole weights in proportion to the wanted ones, as far as the envelope lets them.

    Weights that fit already are given back as they are.
    """
    return _fit(wanted, low=_lowest(declared), high=_highest(declared), total=WHOLE * sum(declared))


def aim_weights(loads: Sequence[Load]) -> Weights:
    """Where weights are to go so that connections per declared weight become equal.

    The weights in force have to fit (`fit_weights`). No aim is further from its weight than one step.
    """
    declared = [load.declared for load in loads]
    now = _imbalances(loads, [load.count for load in loads])
    befores = [load.before for load in loads]
    known = [before for before in befores if before is not None]
    before = _imbalances(loads, known) if len(known) == len(loads) else now
    wanted = [
        load.declared
        * exp(
            (1 - LEAK) * log(max(load.aim, 1) / load.declared) - GAIN * now[i] - TREND * (now[i] - before[i])
        )
        for i, load in enumerate(loads)
    ]
    low = [
        max(e, -(-load.weight * STEP_DOWN // STEP_UP))
        for e, load in zip(_lowest(declared), loads, strict=True)
    ]
    high = [
        min(e, load.weight * STEP_UP // STEP_DOWN) for e, load in zip(_highest(declared), loads, strict=True)
    ]
    return _fit(wanted, low=low, high=high, total=sum(load.weight for load in loads))


def is_worth_a_commit(*, declared: int, weight: int, aim: int) -> bool:
    """Hysteresis, of the share in force or the declared one, whichever is more."""
    return abs(aim - weight) * 100 >= max(weight, declared * WHOLE) * NOTICE_PERCENT


def fair_counts(loads: Sequence[Load]) -> tuple[float, ...]:
    """How many of the connections each backend would have if they were spread as declared."""
    total, declared = sum(load.count for load in loads), sum(load.declared for load in loads)
    return tuple(total * load.declared / declared for load in loads)


def ramp_step(*, seconds: float, over: int) -> int:
    """How many eighths of its weight a backend has that came back so long ago; from 1 to 8."""
    if over <= 0 or seconds >= over:
        return SLOW_START_STEPS
    return max(1, min(SLOW_START_STEPS, 1 + int(seconds * SLOW_START_STEPS / over)))


def _imbalances(loads: Sequence[Load], counts: Sequence[int]) -> list[float]:
    """Logarithm of connections over the fair number, 0 where it is met. Few connections say little."""
    total, declared = sum(counts), sum(load.declared for load in loads)
    found = []
    for load, count in zip(loads, counts, strict=True):
        part = load.declared / declared
        chance = PRIOR * part * len(loads)
        fair = total * part + chance
        found.append(_beyond_chance(log((count + chance) / fair), by=1 / sqrt(fair)))
    return found


def _beyond_chance(imbalance: float, *, by: float) -> float:
    """What is left of it when the standard deviation of a count of connections is taken off."""
    return max(imbalance - by, 0.0) + min(imbalance + by, 0.0)


def _lowest(declared: Iterable[int]) -> list[int]:
    return [weight * WHOLE // ENVELOPE for weight in declared]


def _highest(declared: Iterable[int]) -> list[int]:
    return [weight * WHOLE * ENVELOPE for weight in declared]


def _fit(wanted: Sequence[float], *, low: Sequence[int], high: Sequence[int], total: int) -> Weights:
    """Whole numbers with this sum, each within its bounds and else in proportion to what is wanted.

    The bounds have to leave room for the sum.
    """
    bounds = list(zip(low, high, strict=True))
    if sum(wanted) == total and all(
        w == int(w) and a <= w <= b for w, (a, b) in zip(wanted, bounds, strict=True)
    ):
        return tuple(int(w) for w in wanted)

    def clamp(factor: float) -> list[float]:
        return [min(max(w * factor, a), b) for w, (a, b) in zip(wanted, bounds, strict=True)]

    least, most = 0.0, max(b / w for w, (_, b) in zip(wanted, bounds, strict=True))
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        least, most = (middle, most) if sum(clamp(middle)) < total else (least, middle)
    return _rounded(clamp(most), low=low, high=high, total=total)


_HALVINGS = 60
"""Of an interval of doubles; what is left is far less than one."""


def _rounded(exact: Sequence[float], *, low: Sequence[int], high: Sequence[int], total: int) -> Weights:
    """Rounded so that the sum holds: up where most is missing, the first of equals first."""
    found = [min(max(int(value), a), b) for value, a, b in zip(exact, low, high, strict=True)]
    order = sorted(range(len(found)), key=lambda i: (found[i] - exact[i], i))
    left = total - sum(found)
    while left:
        step = 1 if left > 0 else -1
        for i in order if step > 0 else reversed(order):
            if left and low[i] <= found[i] + step <= high[i]:
                found[i] += step
                left -= step
    return tuple(found)
