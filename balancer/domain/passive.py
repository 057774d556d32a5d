"""Passive health: what clients' own connections say about a backend, from one look at them to the next.

Nothing is sent. A backend that is out gets no connections and so cannot show that it works again: it is let
in on trial, after a time that grows as long as it fails again. Envoy's outlier detection does the same.
"""

from collections.abc import Mapping
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
    over: Mapping[str, int] = field(default_factory=dict)
    """Those that have ended -> seconds until connection tracking forgets them."""

    @property
    def known(self) -> frozenset[str]:
        return self.unanswered | self.answered

    def again_since(self, before: "Look") -> frozenset[str]:
        """Begun anew from the port of one that had ended: a proxy that is the only client has no other ports.
        What is still the same one has fewer seconds left than it had."""
        return frozenset(
            one for one, left in before.over.items() if one in self.known and self.over.get(one, left) >= left
        )


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
    """When it is let in on trial: one that was taken out, or of which nobody knows anything yet."""

    def after(self, look: Look, *, health: Health, now: datetime) -> tuple["Watch", Result]:
        if self.track.up is False:
            return self._waiting(look, now=now)
        if self.before is None:
            first = Result(good=None, reason="looked at its connections for the first time")
            return replace(self, before=look, back_at=now + timedelta(seconds=FIRST_SECONDS)), first
        result = _judge(self.before, look, forgiven=self.forgiven)
        if result.good is None and self.track.up is None and not self._seconds_left(now):
            # The daemon before this one may have taken it out: then nobody else would ever let it in.
            return self._let_in(look, now=now)
        return self._counted(look, result, health=health, now=now), result

    def _seconds_left(self, now: datetime) -> float:
        """Until it is let in on trial; a clock that was set back keeps nobody out."""
        left = 0.0 if self.back_at is None else (self.back_at - now).total_seconds()
        return left if 0 < left <= wait_seconds(self.failures) else 0.0

    def _waiting(self, look: Look, *, now: datetime) -> tuple["Watch", Result]:
        left = self._seconds_left(now)
        if not left:
            return self._let_in(look, now=now)
        reason = f"taken out; tried again in {max(1, round(left))} s"
        return replace(self, before=look), Result(good=False, reason=reason)

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
            return replace(found, track=track, good_looks=good_looks, failures=failures, back_at=None)
        track = self.track.after(False, health=health, now=now)
        if track.up is not False:
            return replace(found, track=track, good_looks=0)
        failures = self.failures + 1
        back_at = now + timedelta(seconds=wait_seconds(failures))
        return replace(found, track=track, good_looks=0, failures=failures, back_at=back_at)


def wait_seconds(failures: int) -> int:
    """How long a backend stays out that was taken out so many times in a row."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * max(1, failures))


def _judge(before: Look, look: Look, *, forgiven: frozenset[str]) -> Result:
    again = look.again_since(before)
    stuck = len((look.unanswered & before.unanswered) - forgiven)
    answered = len((look.answered - before.answered) | (look.answered & again))
    refused = _refused(before, look, remembered=len((look.known - before.known) | again))
    if not stuck and not answered and not refused:
        return Result(good=None, reason="no new connections since the last look")
    failing = stuck + refused
    reason = f"since the last look {answered} answered, {stuck} without answer, {refused} refused"
    return Result(good=not (failing >= LEAST_FAILURES and failing > answered), reason=reason)


def _refused(before: Look, look: Look, *, remembered: int) -> int:
    """Connections that were sent and are not remembered; a counter that began anew tells nothing."""
    if before.started is None or look.started is None or look.started < before.started:
        return 0
    return max(0, look.started - before.started - remembered)
