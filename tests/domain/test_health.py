"""From the results of checks to who is up."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.health import (
    RESERVE_SECONDS,
    HealthState,
    Result,
    Track,
    describe_count,
    has_aged,
    nearest,
    standing_of,
    state_of,
)
from balancer.domain.types import BackendState, Health, HealthKind

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HEALTH = Health(kind=HealthKind.TCP, interval=5, timeout=2, rise=2, fall=3)


def played(*results: bool, health: Health = HEALTH) -> list[bool | None]:
    """Who is up after each result."""
    track, found = Track(), []
    for number, good in enumerate(results):
        track = track.after(good, health=health, now=NOON + timedelta(seconds=number))
        found.append(track.up)
    return found


def test_the_first_good_result_decides_at_once() -> None:
    assert played(True) == [True]
    assert played(False, True) == [None, True]


def test_one_that_never_answered_is_undecided_until_it_has_failed_often_enough() -> None:
    assert played(False, False, False, False) == [None, None, False, False]


def test_one_that_is_up_goes_down_after_fall_failures_in_a_row_and_no_others() -> None:
    assert played(True, False, False, True, False, False, False) == [True] * 6 + [False]


def test_one_that_is_down_comes_back_after_rise_good_results_in_a_row_and_no_others() -> None:
    down = (False,) * 3
    assert played(*down, True, False, True, True)[3:] == [False, False, False, True]


def test_rise_and_fall_of_one_follow_every_result() -> None:
    at_once = Health(kind=HealthKind.TCP, rise=1, fall=1)
    assert played(False, True, False, True, health=at_once) == [False, True, False, True]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_a_decision_always_rests_on_enough_results_in_a_row(
    results: list[bool], rise: int, fall: int
) -> None:
    health = Health(kind=HealthKind.TCP, rise=rise, fall=fall)
    states = played(*results, health=health)
    for number, (before, after) in enumerate(zip([None, *states], states, strict=False)):
        if after is not before:
            needed = 1 if before is None and after else rise if after else fall
            assert results[number + 1 - needed : number + 1] == [after] * needed


def test_a_standing_keeps_the_time_of_the_last_change_and_counts_what_speaks_against_it() -> None:
    track = Track().after(True, health=HEALTH, now=NOON)
    track = track.after(False, health=HEALTH, now=NOON + timedelta(seconds=5))
    later = NOON + timedelta(seconds=5)

    found = standing_of(
        track,
        Result(good=False, reason="tried it, connection refused after 1 ms"),
        service="web",
        endpoint="10.0.0.3:80",
        health=HEALTH,
        now=later,
    )

    assert (found.up, found.since, found.checked_at) == (True, NOON, later)
    assert (
        found.reason
        == "tried it, connection refused after 1 ms (failed 1 of 3 times before it counts as down)"
    )


def test_what_is_still_to_come_is_said_on_both_ways() -> None:
    assert describe_count(Track(True, NOON), health=HEALTH) == ""
    assert describe_count(Track(None, None, 2), health=HEALTH).startswith("failed 2 of 3 times")
    assert describe_count(Track(False, NOON, 1), health=HEALTH) == "good 1 of 2 times before it counts as up"


@pytest.mark.parametrize(
    ("interval", "timeout", "fall"), [(5, 2, 3), (2, 1, 2), (10, 5, 3), (60, 10, 5), (3, 2, 3)]
)
def test_also_one_that_lets_every_check_time_out_is_down_within_fall_intervals(
    interval: int, timeout: int, fall: int
) -> None:
    """It stops right after a good answer, so that the first check that fails starts an interval later."""
    health = Health(kind=HealthKind.HTTP, interval=interval, timeout=timeout, fall=fall)
    track, at = Track(True, NOON), float(interval)
    while True:
        track = track.after(False, health=health, now=NOON)
        if track.up is False:
            break
        at += track.pause(health)

    spare = RESERVE_SECONDS if interval - timeout >= (timeout + RESERVE_SECONDS) / (fall - 1) else 0
    assert at + timeout <= fall * interval - spare + 0.001


def test_a_pause_is_never_shorter_than_the_check_and_never_longer_than_the_interval() -> None:
    tight = Health(kind=HealthKind.TCP, interval=1, timeout=1, fall=3)
    assert Track(True, NOON, 1).pause(tight) == 1
    assert Track(True, NOON, 1).pause(HEALTH) == 5 - (2 + RESERVE_SECONDS) / 2
    assert Track(True, NOON).pause(HEALTH) == Track(False, NOON, 1).pause(HEALTH) == 5


def test_what_is_known_ages_after_three_intervals_and_a_timeout() -> None:
    assert not has_aged(NOON, health=HEALTH, now=NOON + timedelta(seconds=17))
    assert has_aged(NOON, health=HEALTH, now=NOON + timedelta(seconds=17.1))


def test_what_is_from_before_a_clock_was_set_back_ages_too_and_hides_no_heartbeat() -> None:
    back = NOON - timedelta(hours=1)
    assert has_aged(NOON, health=HEALTH, now=back)
    assert not has_aged(NOON, health=HEALTH, now=NOON - timedelta(seconds=20)), (
        "clocks of two machines differ"
    )
    assert nearest(NOON, back - timedelta(seconds=2), now=back) == back - timedelta(seconds=2)
    assert nearest(NOON, None, now=back) == NOON


def test_what_people_want_of_a_backend_comes_before_what_its_checks_found() -> None:
    def shown(wanted: BackendState, up: bool | None, *, age: int = 1) -> HealthState:
        now = NOON + timedelta(seconds=age)
        return state_of(wanted, up=up, checked_at=NOON, health=HEALTH, now=now)

    assert shown(BackendState.DISABLED, True) is HealthState.MAINTENANCE
    assert shown(BackendState.DRAINING, False) is HealthState.DRAINING
    assert shown(BackendState.ENABLED, True) is HealthState.UP
    assert shown(BackendState.ENABLED, False) is HealthState.DOWN
    assert shown(BackendState.ENABLED, None) is HealthState.UNKNOWN
    assert shown(BackendState.ENABLED, True, age=18) is HealthState.UNKNOWN
    assert (
        state_of(BackendState.ENABLED, up=True, checked_at=None, health=HEALTH, now=NOON)
        is HealthState.UNKNOWN
    )
