"""Laws of the weights that move: they stay in the envelope, add up, come to rest, and do not swing."""

import heapq
import os
from collections.abc import Sequence
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.balancing import (
    ENVELOPE,
    WHOLE,
    Load,
    aim_weights,
    declared_weights,
    fair_counts,
    fit_weights,
    is_worth_a_commit,
    ramp_step,
)

SEEDS = range(20) if "LBADMIN_CAMPAIGN" in os.environ else range(1)
declared = st.lists(st.integers(1, 256), min_size=2, max_size=40)


@st.composite
def loads(draw: st.DrawFn) -> tuple[Load, ...]:
    """What a node can find at a look: weights and aims that fit, and any counts."""
    own = draw(declared)
    many = {"min_size": len(own), "max_size": len(own)}
    wanted = st.lists(st.floats(1e-3, 1e6), **many)
    weights, aims = fit_weights(draw(wanted), own), fit_weights(draw(wanted), own)
    counts = draw(st.lists(st.integers(0, 10**6), **many))
    befores = draw(st.one_of(st.just([None] * len(own)), st.lists(st.integers(0, 10**6), **many)))
    found = zip(own, weights, aims, counts, befores, strict=True)
    return tuple(Load(declared=d, weight=w, aim=a, count=c, before=b) for d, w, a, c, b in found)


def in_envelope(weights: Sequence[int], own: Sequence[int]) -> bool:
    """The shares, exactly."""
    total, all_own = sum(weights), sum(own)
    return all(
        d * total <= w * all_own * ENVELOPE and w * all_own <= d * total * ENVELOPE
        for w, d in zip(weights, own, strict=True)
    )


@given(declared, st.data())
def test_weights_that_fit_add_up_stay_in_the_envelope_and_are_left_as_they_are(
    own: list[int], data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.floats(1e-6, 1e9), min_size=len(own), max_size=len(own)))

    weights = fit_weights(wanted, own)

    assert sum(weights) == WHOLE * sum(own)
    assert in_envelope(weights, own)
    assert fit_weights(weights, own) == weights


@given(loads())
def test_a_step_adds_up_stays_in_the_envelope_and_goes_no_further_than_half_as_much_again(
    found: tuple[Load, ...],
) -> None:
    aims = aim_weights(found)

    assert sum(aims) == sum(load.weight for load in found)
    assert in_envelope(aims, [load.declared for load in found])
    for load, aim in zip(found, aims, strict=True):
        assert load.weight * 2 <= aim * 3
        assert aim * 2 <= load.weight * 3


@given(declared, st.integers(0, 10_000))
def test_connections_as_declared_move_nothing(own: list[int], each: int) -> None:
    found = [Load(declared=d, weight=d * WHOLE, aim=d * WHOLE, count=d * each) for d in own]

    assert aim_weights(found) == declared_weights(own)


@given(declared)
def test_with_no_connection_at_all_nothing_moves(own: list[int]) -> None:
    found = [Load(declared=d, weight=d * WHOLE, aim=d * WHOLE, count=0) for d in own]

    assert aim_weights(found) == declared_weights(own)


@given(st.integers(1, 256), st.integers(2, 20), st.integers(20, 10_000))
def test_whoever_has_more_than_its_part_gets_less(own: int, several: int, many: int) -> None:
    found = [Load(declared=own, weight=own * WHOLE, aim=own * WHOLE, count=many) for _ in range(several)]
    found[0] = Load(declared=own, weight=own * WHOLE, aim=own * WHOLE, count=many * 3)

    aims = aim_weights(found)

    assert aims[0] < own * WHOLE
    assert all(aim > own * WHOLE for aim in aims[1:])


def test_a_change_that_is_below_a_tenth_of_a_share_is_not_worth_a_commit() -> None:
    assert not is_worth_a_commit(declared=4, weight=1024, aim=1024 + 102)
    assert not is_worth_a_commit(declared=4, weight=1024, aim=1024 - 102)
    assert is_worth_a_commit(declared=4, weight=1024, aim=1024 + 103)
    assert is_worth_a_commit(declared=4, weight=1024, aim=1024 - 103)
    assert not is_worth_a_commit(declared=4, weight=256, aim=256 + 102), (
        "of the declared share, which is more"
    )


def test_the_fair_number_goes_by_declared_weight() -> None:
    found = [Load(declared=d, weight=d * WHOLE, aim=d * WHOLE, count=c) for d, c in ((1, 120), (2, 180))]

    assert fair_counts(found) == (100.0, 200.0)


@pytest.mark.parametrize(
    ("seconds", "step"), [(-3, 1), (0, 1), (9.9, 1), (10, 2), (35, 4), (69, 7), (70, 8), (80, 8), (1e9, 8)]
)
def test_a_backend_that_came_back_rises_by_eighths(seconds: float, step: int) -> None:
    assert ramp_step(seconds=seconds, over=80) == step


def test_without_a_slow_start_a_backend_is_whole_at_once() -> None:
    assert ramp_step(seconds=0, over=0) == 8


class Simulation:
    """Clients that come by chance, and backends that keep them for a while; a look every ten seconds."""

    def __init__(
        self,
        *,
        own: Sequence[int],
        keep: Sequence[float],
        per_second: float,
        seed: int = 0,
        moves: bool = True,
    ) -> None:
        self.own, self.keep, self.per_second, self.moves = own, keep, per_second, moves
        self.random = Random(seed)
        self.weights = self.aims = declared_weights(own)
        self.counts, self.before = [0] * len(own), None
        self.ends: list[tuple[float, int]] = []
        self.now, self.commits = 0.0, 0
        self.next = self.random.expovariate(per_second)

    def run(self, looks: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Counts and weights at each look."""
        found = []
        for _ in range(looks):
            self._pass(10)
            if self.moves:
                self._look()
            found.append((tuple(self.counts), self.weights))
        return found

    def _pass(self, seconds: float) -> None:
        end = self.now + seconds
        while min(self.next, self.ends[0][0] if self.ends else end) < end:
            if self.ends and self.ends[0][0] <= self.next:
                self.counts[heapq.heappop(self.ends)[1]] -= 1
                continue
            (chosen,) = self.random.choices(range(len(self.own)), self.weights)
            self.counts[chosen] += 1
            leaves = self.next + self.random.expovariate(1 / self.keep[chosen])
            heapq.heappush(self.ends, (leaves, chosen))
            self.next += self.random.expovariate(self.per_second)
        self.now = end

    def _look(self) -> None:
        befores = self.before or [None] * len(self.own)
        each = zip(self.own, self.weights, self.aims, self.counts, befores, strict=True)
        found = [Load(declared=d, weight=w, aim=a, count=c, before=b) for d, w, a, c, b in each]
        self.aims, self.before = aim_weights(found), list(self.counts)
        if any(
            is_worth_a_commit(declared=load.declared, weight=load.weight, aim=aim)
            for load, aim in zip(found, self.aims, strict=True)
        ):
            self.weights, self.commits = self.aims, self.commits + 1


def spread(found: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], own: Sequence[int]) -> float:
    """The most over the fewest connections for each unit of declared weight, in the mean."""
    per_weight = [mean(counts[i] for counts, _ in found) / own[i] for i in range(len(own))]
    return max(per_weight) / min(per_weight)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("own", "keep", "per_second"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 2), 200),
        ((1, 1), (1, 3), 100),
        ((1, 2, 5), (4, 8, 4), 40),
        ((3, 3, 3, 3), (30, 30, 30, 60), 15),
        ((1, 1, 1), (150, 150, 300), 3),
    ],
    ids=["a second", "three times as slow", "weights", "half a minute", "minutes"],
)
def test_backends_of_different_speed_come_much_nearer_to_equal_than_by_weight_alone(
    own: tuple[int, ...], keep: tuple[float, ...], per_second: float, seed: int
) -> None:
    moving = Simulation(own=own, keep=keep, per_second=per_second, seed=seed).run(150)[60:]
    still = Simulation(own=own, keep=keep, per_second=per_second, seed=seed, moves=False).run(150)[60:]

    assert spread(moving, own) - 1 < 0.5 * (spread(still, own) - 1)
    assert all(in_envelope(weights, own) for _, weights in moving)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("keep", "per_second", "within"),
    [(1, 200, 0.1), (60, 4, 0.1), (600, 0.5, 0.25)],
    ids=["s", "min", "10 min"],
)
def test_backends_that_are_alike_are_left_in_peace(
    keep: float, per_second: float, within: float, seed: int
) -> None:
    """What chance has made lasts as long as connections do, and is put right as anything else."""
    simulation = Simulation(own=(1, 1, 1, 1), keep=[keep] * 4, per_second=per_second, seed=seed)

    found = simulation.run(150)[30:]

    assert simulation.commits <= 50, "chance alone makes few commits"
    assert all(abs(mean(weights[i] for _, weights in found) / WHOLE - 1) < within for i in range(4))


@pytest.mark.parametrize("keep", [1, 5, 30, 120, 600, 3600])
def test_however_long_connections_last_nothing_swings(keep: float) -> None:
    """Without chance: the counts follow the weights as fast as connections end. One backend begins empty."""
    fair, every = 10_000.0, 10.0
    stay = 2.718281828 ** (-every / keep)
    counts, befores = [0.0, fair * 1.5], [None, None]
    weights = aims = declared_weights((1, 1))
    ups = []
    for _ in range(3000):
        flow = [2 * fair * weight / sum(weights) for weight in weights]
        counts = [count * stay + part * (1 - stay) for count, part in zip(counts, flow, strict=True)]
        each = zip(weights, aims, counts, befores, strict=True)
        found = [Load(declared=1, weight=w, aim=a, count=round(c), before=b) for w, a, c, b in each]
        aims, befores = aim_weights(found), [round(count) for count in counts]
        if is_worth_a_commit(declared=1, weight=weights[0], aim=aims[0]):
            weights = aims
        ups.append(counts[0])

    assert max(ups) < 1.15 * fair, "it overshoots by little"
    assert all(abs(count / fair - 1) < 0.08 for count in ups[-1000:]), "and comes to rest"
