"""The state directory: one stack at a time uses it, and a demo begins with an empty one."""

import fcntl
import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from balancer.lab.record import Process, identify_process, is_alive
from lbadmin.stack.errors import CannotStart

ENDING_SECONDS = 30.0
"""How long the processes of a stack that was killed may take to end."""


def stack_directory(*, state_dir: Path) -> Path:
    """What only root touches: supervisord's files, logs, and the lock of this state directory."""
    return state_dir / "stack"


def lock_state(*, state_dir: Path) -> int:
    """The descriptor of the lock. Whoever holds it, or inherited it, has the state directory.

    CannotStart at once where a living process has it; what a killed one left is waited for.
    """
    directory = stack_directory(state_dir=state_dir)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + ENDING_SECONDS
    while not _try_lock(handle):
        owner = _read_owner(handle)
        if (owner is not None and is_alive(owner)) or time.monotonic() > deadline:
            os.close(handle)
            who = f" by process {owner.pid}" if owner else ""
            raise CannotStart(f"The state directory {state_dir} is in use{who}: stop that one first.")
        time.sleep(0.05)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(identify_process(os.getpid()))).encode(), 0)
    return handle


def require_disposable(*, state_dir: Path) -> None:
    """A directory that a demo may empty: not there, empty, or made by an earlier demo."""
    if state_dir.is_symlink() or (state_dir.exists() and not state_dir.is_dir()):
        raise CannotStart(f"{state_dir} is no directory: choose another one with --state-dir.")
    found = os.listdir(state_dir) if state_dir.exists() else []
    if found and not (stack_directory(state_dir=state_dir) / "demo").exists():
        raise CannotStart(
            f"The directory {state_dir} has other things in it, and a demo would delete them:"
            " choose another one with --state-dir."
        )


def empty_state(*, state_dir: Path) -> None:
    """Everything but the lock goes, and the directory is marked as a demo's. The caller holds the lock."""
    own = stack_directory(state_dir=state_dir)
    (own / "demo").touch()
    kept = {own, own / "lock", own / "demo"}
    for path in [*state_dir.iterdir(), *own.iterdir()]:
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(handle: int) -> Process | None:
    try:
        return Process(**json.loads(os.pread(handle, 4096, 0)))
    except (ValueError, TypeError):
        return None
