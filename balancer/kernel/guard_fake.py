"""A guard in memory, with a clock that moves when told. Passes the contract suite of the real one."""

import uuid
from dataclasses import replace

from balancer.domain.codec import load_document
from balancer.domain.types import Document
from balancer.kernel.base import Kernel
from balancer.kernel.guard import START_IT, Candidate, NoGuard, TooLate
from balancer.kernel.guard_files import GuardError
from balancer.kernel.guard_state import Confirmed, Outcome, Pending, Why
from balancer.kernel.guardian import rulesets_of

BOOT_ID = "fake-boot"


class FakeGuard:
    """Implements `Guard`. With a `kernel` it puts rules back there; `alive` is whether its process runs."""

    def __init__(self, *, kernel: Kernel | None = None) -> None:
        self.kernel = kernel
        self.alive = True
        self.now = 1000.0
        self._confirmed: Confirmed | None = None
        self._pending: Pending | None = None
        self._outcome: Outcome | None = None

    def advance(self, seconds: float) -> None:
        """Time passes, and a living guard does what is due."""
        self.now += seconds
        self.act()

    def act(self) -> None:
        pending = self._pending
        if self.alive and pending is not None and self.now >= pending.deadline:
            self._go_back(pending)

    def is_alive(self) -> bool:
        """See `Guard.is_alive`."""
        return self.alive

    def arm(self, *, confirmed: Confirmed, candidate: Candidate, seconds: float) -> str:
        """See `Guard.arm`."""
        if not self.alive:
            raise NoGuard(f"No guard, no apply: this node's guard does not run. {START_IT}")
        if self._pending is not None:
            raise GuardError(f"Revision {self._pending.revision} still waits for its confirm on this node.")
        if self._confirmed is None or self._confirmed.digest != confirmed.digest:
            self._confirmed = replace(confirmed, token="", job="", boot_id=BOOT_ID)
        self._pending = Pending(
            token=str(uuid.uuid4()),
            job=candidate.job,
            cluster=candidate.cluster,
            revision=candidate.revision,
            digest=candidate.digest,
            seconds=seconds,
            deadline=self.now + seconds,
            boot_id=BOOT_ID,
        )
        return self._pending.token

    def require_armed(self, *, token: str) -> None:
        """See `Guard.require_armed`."""
        self._require(token)

    def confirm(self, *, token: str, confirmed: Confirmed) -> None:
        """See `Guard.confirm`."""
        if self._confirmed is not None and self._confirmed.token == token:
            return
        pending = self._require(token)
        self._confirmed = replace(confirmed, token=token, job=pending.job, boot_id=BOOT_ID)
        self._pending = None

    def disarm(self, *, token: str) -> None:
        """See `Guard.disarm`."""
        if self._pending is not None and self._pending.token == token:
            self._pending = None

    def remember(self, *, confirmed: Confirmed) -> None:
        """See `Guard.remember`."""
        self._confirmed = replace(confirmed, token="", job="", boot_id=BOOT_ID)
        self._pending = None

    def confirmed(self) -> Confirmed | None:
        """See `Guard.confirmed`."""
        return self._confirmed

    def pending(self) -> Pending | None:
        """See `Guard.pending`."""
        return self._pending

    def remaining(self) -> float:
        """See `Guard.remaining`."""
        return max(0.0, self._pending.deadline - self.now) if self._pending else 0.0

    def last_outcome(self) -> Outcome | None:
        """See `Guard.last_outcome`."""
        return self._outcome

    def _require(self, token: str) -> Pending:
        pending = self._pending
        if pending is None or pending.token != token:
            raise TooLate("The guard has put the last confirmed rules back already.")
        if self.now >= pending.deadline:
            raise TooLate(f"The time to confirm revision {pending.revision} is over; the guard goes back.")
        return pending

    def _go_back(self, pending: Pending) -> None:
        confirmed = self._confirmed
        assert confirmed is not None
        document = load_document(confirmed.document)[0] or Document()
        for ruleset in rulesets_of(confirmed):
            if self.kernel is not None:
                self.kernel.sync(ruleset=ruleset, document=document)
        self._pending = None
        self._outcome = Outcome(
            token=pending.token,
            job=pending.job,
            cluster=confirmed.cluster,
            given_up=pending.revision,
            restored=confirmed.revision,
            digest=confirmed.digest,
            why=Why.DEADLINE,
            text=f"Revision {pending.revision} was not confirmed within {pending.seconds:g} seconds, so the"
            f" node's guard put revision {confirmed.revision} back.",
            late=round(self.now - pending.deadline, 3),
            at="",
        )


class OffGuard:
    """Implements `Guard` for tests that are about something else: nothing is ever put back."""

    def is_alive(self) -> bool:
        return True

    def arm(self, *, confirmed: Confirmed, candidate: Candidate, seconds: float) -> str:
        return "off"

    def require_armed(self, *, token: str) -> None:
        return

    def confirm(self, *, token: str, confirmed: Confirmed) -> None:
        return

    def disarm(self, *, token: str) -> None:
        return

    def remember(self, *, confirmed: Confirmed) -> None:
        return

    def confirmed(self) -> Confirmed | None:
        return None

    def pending(self) -> Pending | None:
        return None

    def remaining(self) -> float:
        return 0.0

    def last_outcome(self) -> Outcome | None:
        return None
