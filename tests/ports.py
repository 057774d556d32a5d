"""TCP ports for programs that are told one before they open it."""

import os
import socket
from pathlib import Path

_held: list[socket.socket] = []


def free_port() -> int:
    """One that nobody is given meanwhile: not by the kernel, which hands out others by itself, and not by
    another test, however many run on this machine at once."""
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(10_000, max(first_of_kernel, 20_000))
    for step in range(len(ports)):
        port = ports[(os.getpid() * 101 + step) % len(ports)]
        if _is_ours(port) and _is_free(port):
            return port
    raise AssertionError("No TCP port is free.")


def _is_ours(port: int) -> bool:
    """An abstract unix socket with its number is a lock that ends with this process, and leaves no file."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0lbadmin-tests-port-{port}")
    except OSError:
        lock.close()
        return False
    _held.append(lock)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
