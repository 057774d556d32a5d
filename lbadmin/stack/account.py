"""The account that web, beat and broker run as, and what of the state directory it may touch.

The state directory belongs to root, with the sticky bit: the account can make and change its own files in it
(database, socket), and cannot move away or replace what root keeps there (logs, supervisord's files).
"""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lbadmin.stack.errors import CannotStart

OWN_FILES = ("lbadmin.sqlite3", "lbadmin.sqlite3-wal", "lbadmin.sqlite3-shm", "secret-key")


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int


def find_account(*, asked: str | None) -> Account | None:
    """The account asked for, or the one behind sudo; None where all runs as root."""
    name = asked or os.environ.get("SUDO_USER") or "root"
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise CannotStart(f"There is no account “{name}” on this machine.") from None
    return None if found.pw_uid == 0 else Account(found.pw_name, found.pw_uid, found.pw_gid)


def can_run(*, account: Account, tree: Path, directory: Path) -> bool:
    """Whether the account can load the program and write in the directory."""
    code = "import os, sys, django, lbadmin.stack; sys.exit(not os.access(sys.argv[1], os.W_OK | os.X_OK))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        user=account.uid,
        group=account.gid,
        extra_groups=os.getgrouplist(account.name, account.gid),
        cwd="/",
        env={"PYTHONPATH": str(tree), "PATH": os.defpath},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def share_directory(*, directory: Path, account: Account | None) -> None:
    """Give the account its part of the state directory."""
    if account is None:
        os.chown(directory, 0, 0)
        directory.chmod(0o700)
        return
    os.chown(directory, 0, account.gid)
    directory.chmod(0o1770)
    for name in OWN_FILES:
        _give(directory / name, account)


def _give(path: Path, account: Account) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        os.fchown(handle, account.uid, account.gid)
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
