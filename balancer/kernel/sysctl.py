"""Forwarding: a balancer forwards packets, now and after a reboot."""

import os
import tempfile
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel.base import Rejected

HOST_SYSCTL_FILE = Path("/etc/sysctl.d/60-lbadmin.conf")
_KEYS = {Family.IPV4: "net.ipv4.ip_forward", Family.IPV6: "net.ipv6.conf.all.forwarding"}


def is_forwarding(*, family: Family) -> bool:
    """In the network namespace of the calling thread: /proc/sys/net follows its reader."""
    return _switch(family).read_text().strip() != "0"


def ensure_forwarding(*, family: Family) -> bool:
    """Turns forwarding on; returns whether it had to. Raises Rejected when it may not."""
    if is_forwarding(family=family):
        return False
    try:
        _switch(family).write_text("1\n")
    except OSError as error:
        raise Rejected(
            f"Cannot turn {_KEYS[family]} on ({error.strerror}); without it nothing reaches a backend."
        ) from error
    return True


def stop_forwarding(*, family: Family) -> None:
    """Undoes `ensure_forwarding`."""
    _switch(family).write_text("0\n")


def is_persisted(*, path: Path, family: Family) -> bool:
    try:
        return path.read_text() == _content(family)
    except OSError:
        return False


def persist_forwarding(*, path: Path, family: Family) -> bool:
    """Writes the sysctl.d file, whole or not at all; returns whether it had to. Raises OSError."""
    if is_persisted(path=path, family=family):
        return False
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".lbadmin-", delete=False) as file:
        file.write(_content(family))
        os.fchmod(file.fileno(), 0o644)
    os.replace(file.name, path)
    return True


def _switch(family: Family) -> Path:
    return Path("/proc/sys") / _KEYS[family].replace(".", "/")


def _content(family: Family) -> str:
    return f"# Written by lbadmin: a load balancer forwards packets.\n{_KEYS[family]} = 1\n"
