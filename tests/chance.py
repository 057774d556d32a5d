"""How unlikely a count may be before a test calls it wrong, and how unlikely it is."""

from collections.abc import Hashable, Mapping
from fractions import Fraction
from typing import TypeVar

CHANCE = 1e-9
"""The kernel throws its own dice, which no seed reaches: what is this unlikely happens in no number of runs
by accident. Counts of a wrong share are much less likely still."""
EXPECTED_MIN = 5
"""Counts that a class of the chi-square test has to expect. With fewer its tail is far too long: of 20 draws
from 50 weighted backends, 6 in 10,000 were called less likely than 1 in a million."""

One = TypeVar("One", bound=Hashable)


def p_of_counts(counts: Mapping[One, int], shares: Mapping[One, Fraction]) -> float:
    """The chance that counts of independent draws are at least so far from their exact shares.

    Those who are expected too rarely are judged together with who is next to them in `shares`.
    """
    assert set(counts) <= set(shares), "somebody was counted who has no share"
    total = sum(counts.values())
    places = _classes([float(share) * total for share in shares.values()])
    found, expected = [0] * (1 + max(places)), [0.0] * (1 + max(places))
    for place, (one, share) in zip(places, shares.items(), strict=True):
        found[place] += counts.get(one, 0)
        expected[place] += float(share) * total
    assert len(found) > 1, f"{total} are too few to be judged"
    from scipy.stats import chisquare  # here: every process of every run would load it, for most of a second

    return float(chisquare(found, expected).pvalue)


def p_of_count(count: int, *, of: int, share: Fraction | float) -> float:
    """The chance that of so many independent draws a count is at least so far from its exact share."""
    from scipy.stats import binomtest

    return float(binomtest(count, of, float(share)).pvalue)


def _classes(expected: list[float]) -> list[int]:
    """The class of each: neighbours together until enough is expected; what is left over joins the last."""
    places, place, so_far = [], 0, 0.0
    for one in expected:
        places.append(place)
        so_far += one
        if so_far >= EXPECTED_MIN:
            place, so_far = place + 1, 0.0
    return [min(one, max(place - 1, 0)) for one in places]
