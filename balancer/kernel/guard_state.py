"""What the guard of a node keeps on the node's own disk, and how it is kept.

One directory, one file for each thing, each written whole: JSON with the SHA-256 of its body, into a new file
that is fsynced, renamed over the old one, and its directory fsynced. Whoever reads gets a value, None where
there is no file, or `Damaged` with a sentence.

    confirmed.json            what the node goes back to
    confirmed.previous.json   the good copy before that one
    pending.json              an apply that nobody has confirmed yet
    restoring.json            the same, once the guard has begun to go back: nobody can confirm it any more
    heard.json                the guard's word that it has read pending.json and stands ready
    outcome.json              what the guard put back last, and why
    state.lock                held while any of these changes
    guard.lock                held by the guard for as long as it lives
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from balancer.kernel.guard_files import (
    Damaged,
    GuardError,
    hold_file_lock,
    link_file,
    read_file,
    remove_file,
    sync_directory,
    write_file,
)

DEFAULT_DIRECTORY = Path("/var/lib/lbadmin/guard")
LOCK_SECONDS = 5.0


class Why(StrEnum):
    """What made the guard go back."""

    DEADLINE = "deadline"
    REBOOT = "reboot"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """What a node goes back to: a revision that was confirmed on it, whole."""

    cluster: str
    revision: int
    digest: str
    document: str
    rulesets: Mapping[str, str]
    """Family -> text; of the document, with the overrides that it holds. An earlier version wrote IPv4 only,
    and carried nothing else (`guardian.rulesets_of`)."""
    overrides: str = ""
    """Digest of the operational overrides in it, empty where there are none."""
    job: str = ""
    """The job by which it was confirmed, empty where it was handed over."""
    token: str = ""
    """Of the arming that it ended, empty where it was handed over."""
    boot_id: str = ""
    """Of the boot in which the kernel last carried it."""
    at: str = ""
    """When it was written, ISO, for people only."""

    def is_same(self, other: "Confirmed") -> bool:
        """Whether both stand for the same rules."""
        mine = self.cluster, self.revision, self.digest, self.overrides
        return mine == (other.cluster, other.revision, other.digest, other.overrides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An apply that is to be undone unless it is confirmed in time."""

    token: str
    job: str
    cluster: str
    revision: int
    digest: str
    seconds: float
    deadline: float
    """Seconds of CLOCK_BOOTTIME: no change of the wall clock moves it, and it goes on during a suspend."""
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The guard has read the pending apply with this token."""

    token: str
    network: int
    """Inode of the network namespace in which the guard stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the guard put back, and why."""

    token: str
    job: str
    cluster: str
    given_up: int | None
    """The revision that was not confirmed; None where its file was damaged."""
    restored: int
    digest: str
    """Of the revision that was restored."""
    overrides: str = ""
    """Digest of the operational overrides that were laid over it."""
    why: str
    """A `Why`."""
    text: str
    late: float | None
    """Seconds from the deadline until the kernel carried the confirmed ruleset; None after a reboot."""
    at: str


class GuardDirectory:
    """The files of one node's guard. Methods that write expect `locked()` to be held."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the directory; refuse one that somebody else could write to. Raises GuardError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = os.stat(self.path)
        except OSError as error:
            raise GuardError(
                f"The guard's directory {self.path} cannot be used: {error.strerror}."
            ) from error
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise GuardError(
                f"The guard's directory {self.path} has to belong to the account of worker and guard alone"
                " (mode 0700): what is in it is loaded into the kernel. Correct owner and mode."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes a file meanwhile. Raises GuardError after five seconds."""
        with hold_file_lock(self.path / "state.lock", seconds=LOCK_SECONDS):
            yield

    # confirmed

    def read_confirmed(self) -> tuple[Confirmed | None, str]:
        """The value and, where the previous good copy had to be taken, a sentence saying so."""
        try:
            return read_file(self.path / "confirmed.json", Confirmed), ""
        except Damaged as damaged:
            previous = read_file(self.path / "confirmed.previous.json", Confirmed)
            if previous is None:
                raise
            return previous, f"{damaged} The previous good copy, revision {previous.revision}, is used."

    def write_confirmed(self, confirmed: Confirmed) -> None:
        """The copy of before is kept beside it, unless that one is damaged."""
        current, spare = self.path / "confirmed.json", self.path / "confirmed.previous.json"
        with suppress(Damaged):
            if read_file(current, Confirmed) is not None:
                link_file(current, spare)
        write_file(current, confirmed)
        if not spare.exists():
            # The first one: two copies from the beginning.
            write_file(spare, confirmed)

    # pending, and what becomes of it

    def read_pending(self) -> Pending | None:
        return read_file(self.path / "pending.json", Pending)

    def write_pending(self, pending: Pending) -> None:
        write_file(self.path / "pending.json", pending)

    def drop_pending(self) -> None:
        remove_file(self.path / "pending.json")

    def claim_pending(self) -> None:
        """It cannot be confirmed any more, but will be undone. A rename needs no space on a full disk."""
        try:
            os.replace(self.path / "pending.json", self.path / "restoring.json")
            sync_directory(self.path)
        except OSError as error:
            raise GuardError(f"The guard cannot work in {self.path}: {error.strerror}.") from error

    def is_restoring(self) -> bool:
        return (self.path / "restoring.json").exists()

    def read_restoring(self) -> Pending | None:
        return read_file(self.path / "restoring.json", Pending)

    def drop_restoring(self) -> None:
        remove_file(self.path / "restoring.json")

    def has_pending(self) -> bool:
        return (self.path / "pending.json").exists()

    # words from guard to worker

    def read_heard(self) -> Heard | None:
        return read_file(self.path / "heard.json", Heard)

    def write_heard(self, heard: Heard) -> None:
        write_file(self.path / "heard.json", heard)

    def read_outcome(self) -> Outcome | None:
        return read_file(self.path / "outcome.json", Outcome)

    def write_outcome(self, outcome: Outcome) -> None:
        write_file(self.path / "outcome.json", outcome)
