"""What must be right before anything is built; each failure is one sentence."""

import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

from lbadmin.stack.configuration import UNSAFE_IN_PATHS
from lbadmin.stack.errors import CannotStart

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
"""Bits of capabilities(7)."""
SOCKET_PATH_MAX = 107
"""Bytes of a unix socket's path, unix(7)."""
PACKAGES = {
    "ip": "iproute2",
    "iptables-legacy-restore": "iptables",
    "iptables-nft-restore": "iptables",
    "iptables-save": "iptables",
    "iptables-restore": "iptables",
    "setpriv": "util-linux",
}


def require_root(*, command: str) -> None:
    if os.geteuid() != 0:
        raise CannotStart(f"This works on the kernel's network tables and needs root: run  sudo {command}")
    missing = [bit for bit in (CAP_NET_ADMIN, CAP_SYS_ADMIN) if not _capabilities() >> bit & 1]
    if missing:
        raise CannotStart(
            "This needs the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN, which root does not have here;"
            " in a container, run it privileged."
        )


def require_tools(*, names: Iterable[str]) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = sorted({PACKAGES.get(name, name) for name in missing})
        raise CannotStart(f"Missing on this machine: {', '.join(missing)}. Install {' and '.join(packages)}.")


def require_free_port(*, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise CannotStart(f"“{host}” is no address of this machine: {error.strerror}.") from error
    with socket.socket(family, kind, protocol) as probe:
        # As gunicorn does: connections in TIME_WAIT do not take a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise CannotStart(
                f"Port {port} on {host} cannot be used ({(error.strerror or '').lower()}):"
                " stop what has it, or choose another one."
            ) from error


def require_usable_paths(*, paths: Iterable[Path], sockets: Iterable[Path]) -> None:
    for path in paths:
        unsafe = sorted(set(str(path)) & set(UNSAFE_IN_PATHS))
        if unsafe:
            raise CannotStart(f"The path {str(path)!r} has characters that cannot be used here: {unsafe}.")
    for path in sockets:
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise CannotStart(
                f"The path {path} is too long for a socket ({SOCKET_PATH_MAX} bytes):"
                " choose a state directory with a shorter path."
            )


def _capabilities() -> int:
    """The effective set, as a number."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
