"""How often what somebody changes is put back, and who probably did it."""

from datetime import UTC, datetime, timedelta

import pytest

from balancer.domain.drift import name_culprits, next_moment

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def ago(*minutes: float) -> list[datetime]:
    return [NOW - timedelta(minutes=each) for each in minutes]


@pytest.mark.parametrize(
    ("put_back", "wait"),
    [
        ((), 0),
        ((1, 2), 0),
        ((0, 1, 2), 1),
        ((0.5, 1, 2), 0.5),
        ((5, 10, 15), 0),
        ((0, 1, 2, 3), 2),
        ((0, 1, 2, 3, 4), 4),
        (tuple(range(20)), 15),
        ((61, 62, 63), 0),
        ((0, 61, 62, 63), 0),
    ],
)
def test_three_times_an_hour_at_once_then_less_and_less_often(
    put_back: tuple[float, ...], wait: float
) -> None:
    assert next_moment(ago(*put_back), now=NOW) == NOW + timedelta(minutes=wait)


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        (("Docker", "firewalld"), "Probably Docker (it puts"),
        (("fail2ban",), "On this node fail2ban changes the firewall too."),
        (("fail2ban", "libvirt"), "On this node fail2ban and libvirt change the firewall too."),
        ((), "look for a script or a cron job"),
    ],
)
def test_the_culprit_is_named_as_far_as_it_is_known(programs: tuple[str, ...], words: str) -> None:
    assert words in name_culprits(programs)
