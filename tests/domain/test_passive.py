"""What clients' own connections say about a backend."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from balancer.domain.health import Result
from balancer.domain.passive import Look, Watch, wait_seconds
from balancer.domain.types import Health, HealthKind

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HEALTH = Health(kind=HealthKind.PASSIVE, interval=5, rise=2, fall=3)


def look(*, unanswered: Sequence[int] = (), answered: Sequence[int] = (), started: int | None = None) -> Look:
    return Look(
        unanswered=frozenset(f"192.0.2.1:{n}" for n in unanswered),
        answered=frozenset(f"192.0.2.1:{n}" for n in answered),
        started=started,
    )


def played(*looks: Look, watch: Watch | None = None, at: datetime = NOON) -> tuple[Watch, list[Result]]:
    watch, results = watch or Watch(), []
    for number, one in enumerate(looks):
        watch, result = watch.after(one, health=HEALTH, now=at + timedelta(seconds=5 * number))
        results.append(result)
    return watch, results


SILENT = [look(unanswered=range(4 * n + 4)) for n in range(5)]
"""Four new connections between two looks, none of them ever answered."""


def test_a_backend_that_answers_nobody_is_taken_out_after_fall_looks() -> None:
    watch, results = played(*SILENT[:3])
    assert (watch.track.up, [r.good for r in results]) == (None, [None, False, False])

    watch, results = played(*SILENT[:4])

    assert watch.track.up is False
    assert results[-1].reason == "since the last look 0 answered, 12 without answer, 0 refused"


def test_a_handshake_that_is_under_way_at_one_look_says_nothing() -> None:
    moments = [look(unanswered=range(10 * n, 10 * n + 9), answered=range(10 * n)) for n in range(5)]

    watch, results = played(*moments)

    assert watch.track.up is True
    assert {r.good for r in results[1:]} == {True}


def test_one_refused_connection_is_seen_by_the_counter_alone() -> None:
    watch, results = played(*(look(started=100 + 5 * n) for n in range(4)))

    assert watch.track.up is False
    assert "5 refused" in results[-1].reason


def test_a_counter_that_began_anew_refuses_nobody() -> None:
    _, results = played(look(started=100), look(started=3))

    assert results[-1].good is None


@pytest.mark.parametrize("failing", [1, 2])
def test_one_or_two_failures_between_two_looks_are_no_fault_of_the_backend(failing: int) -> None:
    moments = [look(unanswered=range(failing)) for _ in range(6)]

    assert played(*moments)[0].track.up is not False


def test_failures_are_no_fault_while_more_connections_are_answered() -> None:
    moments = [look(unanswered=range(1000, 1005), answered=range(9 * n)) for n in range(6)]

    assert played(*moments)[0].track.up is True


def test_a_quiet_backend_keeps_what_is_known_of_it() -> None:
    busy, _ = played(look(), look(answered=range(3)))

    quiet, results = played(*[look(answered=range(3))] * 5, watch=busy)

    assert quiet.track.up is True
    assert results[-1].good is None


def test_what_was_taken_out_is_let_in_on_trial_after_a_time_that_grows() -> None:
    watch, _ = played(*SILENT[:4])
    taken_out = NOON + timedelta(seconds=15)

    watch, (still,) = played(SILENT[4], watch=watch, at=taken_out + timedelta(seconds=29))
    assert (watch.track.up, still.good) == (False, False)
    assert still.reason == "taken out; tried again in 1 s"
    watch, (tried,) = played(SILENT[4], watch=watch, at=taken_out + timedelta(seconds=30))
    assert watch.track.up is True
    assert tried.reason == "let in on trial after 30 s without new connections"

    new = [look(unanswered=[*range(20), *range(100, 104 + 4 * n)]) for n in range(4)]
    again, _ = played(*new, watch=watch, at=taken_out + timedelta(seconds=35))
    assert again.track.up is False
    assert again.failures == 2
    assert [wait_seconds(n) for n in (1, 2, 9, 10, 11)] == [30, 60, 270, 300, 300]


def test_clients_that_still_knock_from_before_do_not_count_after_it_was_let_in() -> None:
    watch, _ = played(*SILENT[:4])
    watch, _ = played(SILENT[4], watch=watch, at=NOON + timedelta(seconds=60))

    watch, results = played(*[SILENT[4]] * 4, watch=watch, at=NOON + timedelta(seconds=65))

    assert watch.track.up is True
    assert {r.good for r in results} == {None}


def test_a_backend_that_did_well_again_begins_with_the_shortest_time() -> None:
    watch, _ = played(*SILENT[:4])
    watch, _ = played(look(), watch=watch, at=NOON + timedelta(seconds=60))
    watch, _ = played(
        *(look(answered=range(5 * n)) for n in range(1, 3)), watch=watch, at=NOON + timedelta(seconds=65)
    )

    assert watch.failures == 0


def test_one_of_which_nothing_is_known_is_let_in_on_trial_as_a_daemon_before_may_have_taken_it_out() -> None:
    quiet = [look(started=100)] * 7

    watch, results = played(*quiet[:6])
    assert (watch.track.up, {r.good for r in results}) == (None, {None})

    watch, results = played(*quiet)

    assert watch.track.up is True
    assert results[-1].reason == "let in on trial after 30 s without new connections"


def test_a_clock_that_was_set_back_keeps_no_backend_out() -> None:
    watch, _ = played(*SILENT[:4])

    watch, (found,) = played(SILENT[4], watch=watch, at=NOON - timedelta(hours=1))

    assert (watch.track.up, found.good) == (True, True)


def test_a_client_that_begins_anew_from_the_ports_of_connections_that_ended_is_not_taken_for_refused() -> (
    None
):
    """Its connections are known by the ports: only what is left of their time tells that they are new."""
    known = look(answered=range(50))
    ports = sorted(known.answered)

    def moment(started: int, left: int, again: int) -> Look:
        """The first so many ports were used again since the look before."""
        over = {port: 117 if number < again else left for number, port in enumerate(ports)}
        return replace(known, started=started, over=over)

    anew, results = played(*(moment(100 + 50 * n, 117, 50) for n in range(6)))
    assert anew.track.up is True
    assert results[-1].reason == "since the last look 50 answered, 0 without answer, 0 refused"

    _, results = played(moment(100, 117, 50), moment(105, 112, 0), moment(108, 107, 3))
    assert [r.reason.rpartition(", ")[2] for r in results[1:]] == ["5 refused", "0 refused"]
