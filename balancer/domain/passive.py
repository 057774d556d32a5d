"""Passive health: what clients' own connections say about a backend, from one look at them to the next.

Nothing is sent. A backend that is out gets no connections and so cannot show that it works again: it is let
in on trial, after a time that grows as long as it fails again. Envoy's outlier detection does the same.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from balancer.domain.health import Result, Track
from balancer.domain.types import Health

FIRST_SECONDS = 30
LONGEST_SECONDS = 300
LEAST_FAILURES = 3
"""Fewer failures between two looks say more about a client than about the backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The connections of one backend that are remembered at one moment, each by client and port."""

    unanswered: frozenset[str] = frozenset()
    """The backend has sent nothing."""
    answered: frozenset[str] = frozenset()
    """The backend has sent something, whatever became of it since."""
    started: int | None = None
    """Connections ever sent to it; None where nothing counts them. One that is refused is forgotten at once
    by connection tracking, so that only this counter has seen it."""

    @property
    def known(self) -> frozenset[str]:
        return self.unanswered | self.answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What is remembered of one backend between looks."""

    track: Track = field(default_factory=Track)
    before: Look | None = None
    forgiven: frozenset[str] = frozenset()
    """Unanswered when it was let in again: their clients go on knocking, which says nothing new."""
    failures: int = 0
    """Times it was taken out since it last did well."""
    good_looks: int = 0
    back_at: datetime | None = None

    def after(self, look: Look, *, health: Health, now: datetime) -> tuple["Watch", Result]:
        if self.back_at is not None and now < self.back_at:
            left = max(1, round((self.back_at - now).total_seconds()))
            return replace(self, before=look), Result(
                good=False, reason=f"taken out; tried again in {left} s"
            )
        if self.back_at is not None:
            return self._let_in(look, now=now)
        result = _judge(self.before, look, forgiven=self.forgiven)
        return self._counted(look, result, health=health, now=now), result

    def _let_in(self, look: Look, *, now: datetime) -> tuple["Watch", Result]:
        waited = wait_seconds(self.failures)
        found = replace(
            self, track=Track(True, now), before=look, forgiven=look.unanswered, back_at=None, good_looks=0
        )
        return found, Result(good=True, reason=f"let in on trial after {waited} s without new connections")

    def _counted(self, look: Look, result: Result, *, health: Health, now: datetime) -> "Watch":
        found = replace(self, before=look, forgiven=self.forgiven & look.unanswered)
        if result.good is None:
            return found
        if result.good:
            good_looks = self.good_looks + 1
            failures = 0 if good_looks >= health.rise else self.failures
            track = self.track.after(True, health=health, now=now)
            return replace(found, track=track, good_looks=good_looks, failures=failures)
        track = self.track.after(False, health=health, now=now)
        if track.up is not False:
            return replace(found, track=track, good_looks=0)
        failures = self.failures + 1
        back_at = now + timedelta(seconds=wait_seconds(failures))
        return replace(found, track=track, good_looks=0, failures=failures, back_at=back_at)


def wait_seconds(failures: int) -> int:
    """How long a backend stays out that was taken out so many times in a row."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * failures)


def _judge(before: Look | None, look: Look, *, forgiven: frozenset[str]) -> Result:
    if before is None:
        return Result(good=None, reason="looked at its connections for the first time")
    stuck = len((look.unanswered & before.unanswered) - forgiven)
    answered = len(look.answered - before.answered)
    refused = _refused(before, look)
    if not stuck and not answered and not refused:
        return Result(good=None, reason="no new connections since the last look")
    failing = stuck + refused
    reason = f"since the last look {answered} answered, {stuck} without answer, {refused} refused"
    return Result(good=not (failing >= LEAST_FAILURES and failing > answered), reason=reason)


def _refused(before: Look, look: Look) -> int:
    """Connections that were sent and are not remembered; a counter that began anew tells nothing."""
    if before.started is None or look.started is None or look.started < before.started:
        return 0
    return max(0, look.started - before.started - len(look.known - before.known))
