"""A mount namespace of one thread, so that network namespaces made there have names that nobody else sees."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from balancer.lab.errors import LabError
from balancer.lab.namespaces import NETNS_DIRECTORY
from balancer.lab.record import RECORDS

_T = TypeVar("_T")
_CLONE_NEWNS, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 2, 4, 4096, 16384, 1 << 18
"""sched.h, sys/mount.h."""
_libc = ctypes.CDLL(None, use_errno=True)
_MEANWHILE_SECONDS = 0.5


def run_privately(work: Callable[[], _T], *, meanwhile: Callable[[], None] | None = None) -> _T:
    """What `work` returns or raises. It runs in a thread that sees an empty /run/netns, an empty directory
    of records and an xtables lock of its own, and so does all that it starts. LabError if that is refused.

    The thread ends with the work, so that none is left standing in a namespace that is not the process's.
    `meanwhile` is called every half second in the caller's own thread.
    """

    def run() -> _T:
        _leave_mounts()
        return work()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="private") as pool:
        future = pool.submit(run)
        while meanwhile is not None and not wait([future], timeout=_MEANWHILE_SECONDS).done:
            meanwhile()
        return future.result()


def _leave_mounts() -> None:
    _check(_libc.unshare(_CLONE_NEWNS), what="a mount namespace")
    _mount(None, Path("/"), kind=None, flags=_MS_REC | _MS_PRIVATE)
    for directory in (NETNS_DIRECTORY, RECORDS):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        _mount("tmpfs", directory, kind="tmpfs", flags=_MS_NOSUID | _MS_NODEV)
    # The rules of a rehearsal must not make those who write the machine's own wait.
    shared, own = Path(os.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock"), RECORDS / "xtables.lock"
    if shared.is_relative_to(RECORDS):
        # A balancer of another lab (the demo's) rehearses: its directory is out of sight here.
        shared.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for lock in (shared, own):
        lock.touch(mode=0o600)
    _mount(str(own), shared, kind=None, flags=_MS_BIND)


def _mount(source: str | None, target: Path, *, kind: str | None, flags: int) -> None:
    arguments = (_bytes(source), os.fsencode(target), _bytes(kind), ctypes.c_ulong(flags), None)
    _check(_libc.mount(*arguments), what=f"the mount on {target}")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _check(result: int, *, what: str) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LabError(f"This machine refuses {what} for the lab: {reason}. Run this as root.")
