"""A balancer forwards packets, and counts them, now and after a reboot."""

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel.base import Rejected

HOST_SYSCTL_FILE = Path("/etc/sysctl.d/60-lbadmin.conf")
COUNTING = ("net.netfilter.nf_conntrack_acct", "net.netfilter.nf_conntrack_events")
"""With the second at 2, as it is by default, the end of what began while nobody listened is not told of."""
_KEYS = {Family.IPV4: "net.ipv4.ip_forward", Family.IPV6: "net.ipv6.conf.all.forwarding"}


def is_forwarding(*, family: Family) -> bool | None:
    """In the network namespace of the calling thread: /proc/sys/net follows its reader.

    None where this kernel does not have the family.
    """
    try:
        return _switch(family).read_text().strip() != "0"
    except FileNotFoundError:
        return None


def missing_settings(*, family: Family) -> tuple[str, ...]:
    """What is off although `ensure_forwarding` had turned it on, as `net.ipv4.ip_forward=1`."""
    return () if is_forwarding(family=family) else (f"{_KEYS[family]}=1",)


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
    return _KEYS[family] in _persisted(path)


def persist_forwarding(*, path: Path, family: Family) -> bool:
    """Writes the sysctl.d file, whole or not at all; returns whether it had to. Raises OSError.

    What it said of the other family it goes on saying.
    """
    return _persist(_KEYS[family], path=path)


def ensure_accounting() -> tuple[str, ...]:
    """Lets the kernel count packets and bytes of every connection that begins from now on, and tell of its
    end; returns what had to be set. Raises OSError."""
    turned_on = []
    for key in COUNTING:
        if _path_of(key).read_text().strip() != "1":
            _path_of(key).write_text("1\n")
            turned_on.append(key)
    return tuple(turned_on)


def persist_accounting(*, path: Path) -> bool:
    """As `persist_forwarding`."""
    return any([_persist(key, path=path) for key in COUNTING])


def _switch(family: Family) -> Path:
    return _path_of(_KEYS[family])


def _path_of(key: str) -> Path:
    return Path("/proc/sys") / key.replace(".", "/")


def _persist(key: str, *, path: Path) -> bool:
    persisted = _persisted(path)
    if key in persisted:
        return False
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".lbadmin-", delete=False) as file:
        file.write(_content({*persisted, key}))
        os.fchmod(file.fileno(), 0o644)
    os.replace(file.name, path)
    return True


def _persisted(path: Path) -> set[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    return {key for key in (*_KEYS.values(), *COUNTING) if _line(key) in lines}


def _content(keys: Collection[str]) -> str:
    lines = [_line(key) for key in (*_KEYS.values(), *COUNTING) if key in keys]
    return "\n".join(["# Written by lbadmin: a load balancer forwards packets.", *lines, ""])


def _line(key: str) -> str:
    return f"{key} = 1"
