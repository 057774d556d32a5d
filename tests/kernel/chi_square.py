"""Pearson's chi-square with the standard library."""

from collections.abc import Mapping
from fractions import Fraction
from math import exp, lgamma, log
from typing import TypeVar

_T = TypeVar("_T")


def p_value(*, counts: Mapping[_T, int], shares: Mapping[_T, Fraction]) -> float:
    """The chance that counts of independent draws are at least so far from their exact shares."""
    assert set(counts) <= set(shares), "somebody was counted who has no share"
    total = sum(counts.values())
    distance = sum(
        (counts.get(key, 0) - share * total) ** 2 / (share * total) for key, share in shares.items()
    )
    return upper_gamma(a=(len(shares) - 1) / 2, x=float(distance) / 2)


def upper_gamma(*, a: float, x: float) -> float:
    """The regularised upper incomplete gamma function (Abramowitz and Stegun 6.5.29 and 6.5.31)."""
    if x <= 0:
        return 1.0
    factor = exp(a * log(x) - x - lgamma(a))
    return 1 - factor * _series(a, x) if x < a + 1 else factor * _fraction(a, x)


def _series(a: float, x: float) -> float:
    term = total = 1 / a
    n = a
    while term > total * 1e-15:
        n += 1
        term *= x / n
        total += term
    return total


def _fraction(a: float, x: float) -> float:
    """Lentz's way to evaluate the continued fraction."""
    b = x + 1 - a
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 10_000):
        b += 2
        d = 1 / (i * (a - i) * d + b)
        c = b + i * (a - i) / c
        value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return value
