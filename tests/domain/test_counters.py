"""What is kept of counters: points, slices, and what is made of them."""

from datetime import UTC, datetime, timedelta

from balancer.domain.counters import ServicePoint, Slice, TimedPoint, add, declared_shares, fold_others

ONE, TWO, THREE = "10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"


def test_shares_that_were_changed_within_a_step_count_for_the_connections_of_their_time() -> None:
    """9 connections while one of two backends was to get all of them, then 3 at a half each."""
    points = [
        ServicePoint(backends={ONE: (9, 0, 0, 0, 10_000), TWO: (0, 0, 0, 0, 0)}),
        ServicePoint(backends={ONE: (1, 0, 0, 0, 5_000), TWO: (2, 0, 0, 0, 5_000)}),
        ServicePoint(),
    ]

    assert declared_shares(points) == {ONE: 8_750, TWO: 1_250}
    idle = ServicePoint(backends={ONE: (0, 0, 0, 2, 5_000)})
    assert declared_shares([idle]) == {ONE: 5_000}, "without any, the last"


def test_a_coarse_point_has_the_shares_that_were_declared_for_its_connections() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    points = (
        ServicePoint(backends={ONE: (30, 1, 1, 1, 10_000)}),
        ServicePoint(backends={ONE: (5, 1, 1, 1, 5_000), TWO: (5, 1, 1, 1, 5_000)}),
    )
    timed = [TimedPoint(at=at + timedelta(seconds=10 * n), seconds=10, point=p) for n, p in enumerate(points)]

    assert {name: one[4] for name, one in add(timed).backends.items()} == {ONE: 8_750, TWO: 1_250}


def test_backends_that_have_no_line_of_their_own_are_added_up_point_by_point() -> None:
    points = (
        ServicePoint(backends={ONE: (1, 2, 3, 4, 5), TWO: (10, 20, 30, 40, 50)}, refused={"rate": 1}),
        ServicePoint(backends={TWO: (1, 1, 1, 1, 1), THREE: (2, 2, 2, 2, 2)}),
    )
    found = Slice(offsets=(10, 20), seconds=(10.0, 10.0), points=points)

    folded = Slice.from_data(fold_others(found.to_data(), names={ONE}, others="others"))

    assert [point.backends["others"] for point in folded.points] == [(10, 20, 30, 40, 50), (3, 3, 3, 3, 3)]
    assert folded.points[0].backends[ONE] == (1, 2, 3, 4, 5)
    assert (folded.seconds, folded.points[0].refused) == (found.seconds, {"rate": 1})
