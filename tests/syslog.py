"""A syslog of the tests' own: this machine's is left alone, and a test that wants one listens itself."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbadmin.syslog import HeadHandler

HEADS = logging.getLogger("lbadmin.audit")
NOWHERE = "/nonexistent/log"
HOST = "Nov 24 15:04:05 console"
"""What syslogd writes before a line."""


@pytest.fixture(scope="session", autouse=True)
def no_syslog() -> Iterator[None]:
    """Also for the processes that a test starts."""
    patch = pytest.MonkeyPatch()
    patch.setitem(os.environ, "LBADMIN_SYSLOG", NOWHERE)
    patch.setattr(HEADS, "handlers", [])
    yield
    patch.undo()


class Syslog:
    """What a syslogd does: it takes datagrams, and writes each as a line with time and host."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def datagrams(self) -> list[bytes]:
        """Those that came since it was asked last."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096))
            except BlockingIOError:
                return found

    def lines(self) -> list[str]:
        texts = [datagram.rstrip(b"\0").decode("ascii") for datagram in self.datagrams()]
        return [f"{HOST} {text.partition('>')[2]}" for text in texts]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def heads_go_to(path: Path) -> Iterator[HeadHandler]:
    handler = HeadHandler(address=str(path))
    HEADS.addHandler(handler)
    try:
        yield handler
    finally:
        HEADS.removeHandler(handler)
        handler.close()
