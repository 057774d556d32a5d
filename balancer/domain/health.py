"""What the checks of a backend say about it: results in, standings out (docs/design/probes.md).

A check ends in a `Result`. `Track` counts results in a row, and `standing_of` says what they come to. Nothing
here knows a clock: times are given.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from balancer.domain.types import BackendState, Health

AGES_AFTER_INTERVALS = 3
RESERVE_SECONDS = 0.6
"""What the way from a finding into the kernel may take beyond a second, if another one was just written."""
AHEAD = timedelta(seconds=60)
"""By so much the clocks of two machines may differ. What is later is from before a clock was set back."""


class HealthState(StrEnum):
    """What is shown of a backend: what people want of it first, then what its checks found."""

    UP = "up"
    DOWN = "down"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of one check."""

    good: bool | None
    """None: the check could not be made, which says nothing about the backend."""
    reason: str
    """What was tried, what came of it and how long it took; never empty."""
    warning: str = ""
    """Something that a person should look at although the backend works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one node knows of one backend of one service."""

    service: str
    endpoint: str
    up: bool | None
    """None: not decided. It counts as up, since nobody has seen it fail."""
    since: datetime
    """When `up` became what it is."""
    checked_at: datetime
    reason: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Track:
    """The results so far, in what matters of them."""

    up: bool | None = None
    since: datetime | None = None
    against: int = 0
    """Results in a row that speak against `up`; while nothing is decided, failures in a row."""

    @property
    def is_failing(self) -> bool:
        """Fails, but not often enough to be down."""
        return self.against > 0 and self.up is not False

    def after(self, good: bool, *, health: Health, now: datetime) -> "Track":
        """The first good result decides at once; whoever fails is down after `fall` results in a row, and up
        again after `rise`. keepalived and HAProxy count the same way."""
        if good is self.up:
            return self if self.against == 0 else Track(self.up, self.since)
        if good and self.up is None:
            return Track(True, now)
        against = self.against + 1
        if against >= (health.rise if good else health.fall):
            return Track(good, now)
        return Track(self.up, self.since, against)

    def pause(self, health: Health) -> float:
        """Seconds from the start of this check to that of the next.

        A failing backend is asked a little sooner, so that also one that lets every check time out is found
        within `fall` intervals of its last good answer, with `RESERVE_SECONDS` to spare.
        """
        if not self.is_failing or health.fall < 2:
            return health.interval
        sooner = (health.timeout + RESERVE_SECONDS) / (health.fall - 1)
        return max(health.timeout, health.interval - sooner)


def describe_count(track: Track, *, health: Health) -> str:
    """What is still to come before a decision; empty where nothing speaks against what holds."""
    if track.against == 0:
        return ""
    if track.up is False:
        return f"good {track.against} of {health.rise} times before it counts as up"
    return f"failed {track.against} of {health.fall} times before it counts as down"


def standing_of(
    track: Track, result: Result, *, service: str, endpoint: str, health: Health, now: datetime
) -> Standing:
    count = describe_count(track, health=health)
    return Standing(
        service=service,
        endpoint=endpoint,
        up=track.up,
        since=track.since or now,
        checked_at=now,
        reason=f"{result.reason} ({count})" if count else result.reason,
        warning=result.warning,
    )


def has_aged(checked_at: datetime, *, health: Health, now: datetime) -> bool:
    """Whether a result is too old to say anything: its checks must have stopped.

    `checked_at` is that of the standing or of the last heartbeat of the node's health daemon, whichever is
    nearer: what does not change is not written again with every check.
    """
    limit = timedelta(seconds=AGES_AFTER_INTERVALS * health.interval + health.timeout)
    return not -AHEAD <= now - checked_at <= limit


def nearest(checked_at: datetime, heartbeat: datetime | None, *, now: datetime) -> datetime:
    """The one that says more about now; either may be from before the clock was set back."""
    return checked_at if heartbeat is None else min(checked_at, heartbeat, key=lambda at: abs(now - at))


def state_of(
    wanted: BackendState,
    *,
    up: bool | None,
    checked_at: datetime | None,
    health: Health,
    now: datetime,
) -> HealthState:
    """What to show of a backend that people want to be `wanted`; without a standing `checked_at` is None."""
    if wanted is BackendState.DISABLED:
        return HealthState.MAINTENANCE
    if wanted is BackendState.DRAINING:
        return HealthState.DRAINING
    if up is None or checked_at is None or has_aged(checked_at, health=health, now=now):
        return HealthState.UNKNOWN
    return HealthState.UP if up else HealthState.DOWN
