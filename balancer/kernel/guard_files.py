"""Small files that survive a crash at any moment, and locks that end with their process.

A file is JSON in two lines: what it is and the SHA-256 of the second line, and the body.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

POLL_SECONDS = 0.01
FORMAT = 1

Value = TypeVar("Value")


class GuardError(Exception):
    """Base of everything about the guard; the message is a sentence for people."""


class Damaged(GuardError):
    """A file of the guard does not hold what was written into it."""


def read_file(path: Path, kind: type[Value]) -> Value | None:
    """None where there is no file. Raises Damaged."""
    try:
        with path.open("rb") as file:
            owner, raw = os.fstat(file.fileno()).st_uid, file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"The file {path} of the guard cannot be read: {error.strerror}.") from error
    if owner != os.geteuid():
        # Whoever owns a directory above may have put another one in the place of ours.
        raise Damaged(f"The file {path} of the guard belongs to somebody else and is not used.")
    try:
        return _decode(raw, kind)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(
            f"The file {path} of the guard is damaged (its checksum or its form is wrong) and is not used."
        ) from error


def write_file(path: Path, value: Any) -> None:
    """Whole or not at all, and on the disk when this returns. Raises GuardError with the old file there."""
    new = path.with_name(f"{path.name}.new")
    try:
        _write_new(new, _encode(value))
        os.replace(new, path)
        sync_directory(path.parent)
    except OSError as error:
        raise GuardError(f"The guard's file {path} could not be written: {error.strerror}.") from error


def link_file(path: Path, copy: Path) -> None:
    """`copy` becomes a second name of what `path` is now."""
    new = copy.with_name(f"{copy.name}.new")
    try:
        new.unlink(missing_ok=True)
        os.link(path, new)
        os.replace(new, copy)
        # Two names of one file: rename(2) then does nothing and leaves the new name.
        new.unlink(missing_ok=True)
        sync_directory(copy.parent)
    except OSError as error:
        raise GuardError(f"The guard's file {copy} could not be written: {error.strerror}.") from error


def remove_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise GuardError(f"The guard's file {path} could not be removed: {error.strerror}.") from error


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def hold_file_lock(
    path: Path, *, seconds: float, pause: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """An exclusive flock on a file, which ends with the process. Raises GuardError after `seconds`."""
    descriptor = open_lock(path)
    deadline = time.monotonic() + seconds
    try:
        while not try_lock(descriptor, exclusive=True):
            if time.monotonic() >= deadline:
                raise GuardError(f"Another process has held {path} for {seconds:g} seconds.")
            pause(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise GuardError(f"The guard's file {path} cannot be opened: {error.strerror}.") from error


def try_lock(descriptor: int, *, exclusive: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_new(path: Path, raw: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(value: Any) -> bytes:
    """The body on a line of its own, so that its bytes as they are can be summed."""
    body = json.dumps(asdict(value), sort_keys=True, ensure_ascii=True).encode()
    head = {"lbadmin-guard": FORMAT, "kind": type(value).__name__, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head, sort_keys=True).encode() + b"\n" + body + b"\n"


def _decode(raw: bytes, kind: type[Value]) -> Value:
    head_line, body, rest = raw.split(b"\n")
    expected = {"lbadmin-guard": FORMAT, "kind": kind.__name__, "sha256": hashlib.sha256(body).hexdigest()}
    if rest or head_line != json.dumps(expected, sort_keys=True).encode():
        raise ValueError("the head does not fit the body")
    data: dict[str, Any] = json.loads(body)
    if set(data) != {one.name for one in fields(kind)}:
        raise ValueError("other fields than this version knows")
    return kind(**data)
