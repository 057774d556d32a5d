"""The port to a node's guard, and the worker's side of the real one.

The guard is a process of its own (`lbadmin.guard`) that needs neither broker, database nor worker. Before a
commit the worker hands it what was confirmed last and a deadline; without a confirm by then the guard puts
that back.
"""

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from balancer.kernel.guard_files import POLL_SECONDS, Damaged, GuardError, open_lock, try_lock
from balancer.kernel.guard_state import Confirmed, GuardDirectory, Outcome, Pending

ALIVE_SECONDS = 5.0
HEARD_SECONDS = 5.0
"""The guard looks several times a second; one that has not answered by then is none."""
START_IT = (
    "Start it beside the worker (python -m lbadmin.guard, see the guide to operating), then apply again."
)


class NoGuard(GuardError):
    """Nobody would put the old rules back, so nothing may be applied."""


class TooLate(GuardError):
    """The guard goes back, or has gone back, already: this apply can no longer be confirmed or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is about to be applied."""

    job: str
    cluster: str
    revision: int
    digest: str


class Guard(Protocol):
    """One node's guard, as its worker sees it. Every method but `is_alive` may raise `GuardError`."""

    def is_alive(self) -> bool:
        """Whether a guard stands ready."""

    def arm(self, *, confirmed: Confirmed, candidate: Candidate, seconds: float) -> str:
        """From now on the guard goes back to `confirmed` after `seconds` unless it hears otherwise; a token.

        Returns once the guard has said that it knows. Raises NoGuard; GuardError where another apply waits.
        """

    def require_armed(self, *, token: str) -> None:
        """Raises TooLate where the guard does not wait for this token any more."""

    def confirm(self, *, token: str, confirmed: Confirmed) -> None:
        """The apply is final, and `confirmed` is what the node goes back to from now on. Raises TooLate.

        Of a confirm and the deadline exactly one wins. Doing it once more changes nothing.
        """

    def disarm(self, *, token: str) -> None:
        """There is nothing to undo: the kernel holds what it held before."""

    def remember(self, *, confirmed: Confirmed) -> None:
        """The kernel was brought to this without an arming, for what is live needs no confirm."""

    def confirmed(self) -> Confirmed | None:
        """What the guard would put back."""

    def pending(self) -> Pending | None:
        """What waits for a confirm; None as well once the guard has begun to go back."""

    def remaining(self) -> float:
        """Seconds until the guard goes back; 0 where nothing waits."""

    def last_outcome(self) -> Outcome | None:
        """What it put back last, ever."""


class FileGuard:
    """Implements `Guard` through the files of `guard_state`, which the guard's process reads."""

    def __init__(
        self,
        *,
        directory: Path,
        clock: Callable[[], float] | None = None,
        boot_id: str | None = None,
        pause: Callable[[float], None] = time.sleep,
        network: int | None = None,
    ) -> None:
        """`clock` gives seconds of CLOCK_BOOTTIME, `network` the namespace; None asks this machine."""
        self._files = GuardDirectory(directory)
        self._clock = clock or read_boottime
        self._boot_id = boot_id or read_boot_id()
        self._pause = pause
        self._network = network

    def is_alive(self) -> bool:
        """See `Guard.is_alive`: a living guard holds guard.lock."""
        path = self._files.path / "guard.lock"
        if not path.exists():
            return False
        descriptor = open_lock(path)
        try:
            return not try_lock(descriptor, exclusive=False)
        finally:
            os.close(descriptor)

    def arm(self, *, confirmed: Confirmed, candidate: Candidate, seconds: float) -> str:
        """See `Guard.arm`."""
        self._files.prepare()
        if not self._wait_until_alive():
            raise NoGuard(
                "No guard, no apply: this node's guard does not run, so nothing would put the old rules"
                f" back if the new ones cut the node off. {START_IT}"
            )
        token = str(uuid.uuid4())
        with self._files.locked():
            self._refuse_second(candidate)
            self._keep(confirmed)
            self._files.write_pending(
                Pending(
                    token=token,
                    job=candidate.job,
                    cluster=candidate.cluster,
                    revision=candidate.revision,
                    digest=candidate.digest,
                    seconds=seconds,
                    deadline=self._clock() + seconds,
                    boot_id=self._boot_id,
                )
            )
        self._wait_until_heard(token)
        return token

    def require_armed(self, *, token: str) -> None:
        """See `Guard.require_armed`."""
        with self._files.locked():
            self._require(token)

    def confirm(self, *, token: str, confirmed: Confirmed) -> None:
        """See `Guard.confirm`. The rename of confirmed.json is the moment at which it is final."""
        with self._files.locked():
            if self._is_confirmed(token):
                self._files.drop_pending()
                return
            pending = self._require(token)
            self._files.write_confirmed(self._stamped(confirmed, token=token, job=pending.job))
            self._files.drop_pending()

    def disarm(self, *, token: str) -> None:
        """See `Guard.disarm`."""
        with self._files.locked():
            pending = self._files.read_pending()
            if pending is not None and pending.token == token:
                self._files.drop_pending()

    def remember(self, *, confirmed: Confirmed) -> None:
        """See `Guard.remember`."""
        self._files.prepare()
        with self._files.locked():
            self._keep(confirmed)
            self._files.drop_pending()
            self._files.drop_restoring()

    def confirmed(self) -> Confirmed | None:
        """See `Guard.confirmed`."""
        return self._files.read_confirmed()[0]

    def pending(self) -> Pending | None:
        """See `Guard.pending`."""
        return self._files.read_pending()

    def remaining(self) -> float:
        """See `Guard.remaining`."""
        pending = self._files.read_pending()
        return max(0.0, pending.deadline - self._clock()) if pending else 0.0

    def last_outcome(self) -> Outcome | None:
        """See `Guard.last_outcome`."""
        return self._files.read_outcome()

    def _refuse_second(self, candidate: Candidate) -> None:
        if self._files.is_restoring():
            raise GuardError(
                "The guard of this node is putting the last confirmed rules back just now; try again."
            )
        pending = self._files.read_pending()
        if pending is not None:
            raise GuardError(
                f"Revision {pending.revision} still waits for its confirm on this node; nothing else can be"
                " applied until that is decided."
            )

    def _keep(self, confirmed: Confirmed) -> None:
        """Write it, unless it is there already."""
        try:
            found = self._files.read_confirmed()[0]
        except Damaged:
            found = None
        same = found is not None and found.is_same(confirmed) and found.boot_id == self._boot_id
        if not same:
            self._files.write_confirmed(self._stamped(confirmed))

    def _stamped(self, confirmed: Confirmed, *, token: str = "", job: str = "") -> Confirmed:
        at = datetime.now(UTC).isoformat()
        return replace(confirmed, token=token, job=job, boot_id=self._boot_id, at=at)

    def _is_confirmed(self, token: str) -> bool:
        try:
            found = self._files.read_confirmed()[0]
        except Damaged:
            return False
        return found is not None and found.token == token

    def _require(self, token: str) -> Pending:
        pending = None if self._files.is_restoring() else self._files.read_pending()
        if pending is None or pending.token != token:
            raise TooLate("The guard has put the last confirmed rules back already, or is doing so.")
        if pending.boot_id != self._boot_id or self._clock() >= pending.deadline:
            raise TooLate(f"The time to confirm revision {pending.revision} is over; the guard goes back.")
        return pending

    def _wait_until_alive(self) -> bool:
        """Its supervisor may be starting it again at this moment."""
        for _ in range(round(ALIVE_SECONDS / POLL_SECONDS)):
            if self.is_alive():
                return True
            self._pause(POLL_SECONDS)
        return self.is_alive()

    def _wait_until_heard(self, token: str) -> None:
        """A guard that runs but does not look is no guard. Raises NoGuard with nothing armed."""
        for _ in range(round(HEARD_SECONDS / POLL_SECONDS)):
            heard = self._files.read_heard()
            if heard is not None and heard.token == token:
                break
            self._pause(POLL_SECONDS)
        else:
            self.disarm(token=token)
            raise NoGuard(
                f"No guard, no apply: this node's guard has not answered within {HEARD_SECONDS:g} seconds."
                " Look at its log and start it again."
            )
        if heard.network != (self._network or read_network()):
            self.disarm(token=token)
            raise NoGuard(
                "No guard, no apply: the guard stands in another network namespace than the worker."
                f" {START_IT}"
            )


def read_boottime() -> float:
    """Seconds since the machine was started, suspended ones included; nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_network() -> int:
    """The network namespace of the calling thread."""
    return os.stat("/proc/thread-self/ns/net").st_ino
