"""The two locks: one lbadmin writer at a time, and one legacy iptables writer at a time.

Both are flock(2) on a file. A flock belongs to the open file, so a child that inherits the descriptor
keeps the lock after its parent was killed.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from balancer.kernel.base import Busy, Rejected

DEFAULT_LOCK_DIRECTORY = Path("/run/lbadmin")
POLL_SECONDS = 0.01


def xtables_lock_path() -> Path:
    """Where iptables-legacy keeps its lock (iptables/xshared.c: XTABLES_LOCKFILE, else /run/xtables.lock)."""
    return Path(os.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock")


def default_lock_directory() -> Path:
    return Path(os.environ.get("LBADMIN_LOCK_DIR") or DEFAULT_LOCK_DIRECTORY)


@contextmanager
def hold_writer_lock(*, directory: Path, wait_seconds: float, writes: bool = True) -> Iterator[int]:
    """Holds the lbadmin writer lock of the current network namespace; yields its descriptor.

    Hand the descriptor to every child that writes (`pass_fds`): the lock is free only when the last of
    them has gone. Raises Busy after `wait_seconds`. Who `writes` leaves a sign (`writing_of`).
    """
    descriptor = _open_lock(_writer_lock_path(directory=directory))
    try:
        _poll_for_lock(descriptor, wait_seconds=wait_seconds)
        if writes:
            now = time.time_ns()
            os.utime(descriptor, ns=(now, now))
        yield descriptor
    finally:
        # Closing, not unlocking: LOCK_UN would free the lock for a child that still writes.
        os.close(descriptor)


def writing_of(descriptor: int) -> int:
    """Another number after each writer that held the lock: who holds it sees whether one came between."""
    return os.fstat(descriptor).st_mtime_ns


@contextmanager
def hold_xtables_lock(*, path: Path, wait_seconds: float) -> Iterator[int]:
    """Holds the lock of iptables-legacy; for a single-threaded process only, since it waits by alarm.

    A blocking flock queues behind the `iptables -w` that came earlier, where polling could starve.
    """
    descriptor = _open_lock(path)
    try:
        _wait_for_lock(descriptor, path=path, wait_seconds=wait_seconds)
        yield descriptor
    finally:
        os.close(descriptor)


def _writer_lock_path(*, directory: Path) -> Path:
    # A file below a root-owned directory, because an abstract socket or a lock on the namespace itself
    # could be taken by any local user.
    namespace = os.stat("/proc/thread-self/ns/net")
    return directory / f"kernel-{namespace.st_ino}.lock"


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Rejected(f"Cannot open the lock file {path}: {error.strerror}. Nothing was changed.") from error


def _poll_for_lock(descriptor: int, *, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"Another lbadmin process has been writing to this node for {wait_seconds:g} seconds."
                    " Nothing was changed; try again."
                ) from None
            time.sleep(POLL_SECONDS)


def _wait_for_lock(descriptor: int, *, path: Path, wait_seconds: float) -> None:
    def give_up(signum: int, frame: FrameType | None) -> None:
        raise Busy(
            f"Another program has held the xtables lock ({path}) for {wait_seconds:g} seconds."
            " Nothing was changed; try again."
        )

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, max(wait_seconds, POLL_SECONDS))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
