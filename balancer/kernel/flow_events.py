"""Entries that leave the kernel's connection table, heard as they go: a socket of our own (ctnetlink).

The kernel tells whoever listens, and throws away what does not fit into the listener's buffer. How much that
was is read from the socket, so that nobody takes a part for the whole. Reliable delivery
(NETLINK_BROADCAST_ERROR) is left off on purpose: docs/design/counters.md says what it does to traffic where
a listener stands still.

Not `conntrack -E -b`: version 1.4.7 enlarges the buffer of another socket of its own, and loses most of what
ends at once.
"""

import socket
import struct
import threading
from types import TracebackType
from typing import Self

from balancer.kernel.base import Rejected
from balancer.kernel.flow_counts import Carried, Flow
from balancer.kernel.flow_messages import read_ended
from balancer.kernel.netlink import NETFILTER, messages

BUFFER_BYTES = 32 << 20
"""The kernel takes it twice, for its own of each message: 52,000 entries that end at once. Memory is used
only while they wait."""
BEAT_SECONDS = 0.05
"""From one reading to the next: a message that is read alone costs twice as much."""
_RCVBUFFORCE, _MEMINFO = 33, 55
_DROPS = 8
"""Of SO_MEMINFO: what was thrown away since the socket began (linux/sock_diag.h)."""
_SOL_NETLINK, _ADD_MEMBERSHIP, _NO_ENOBUFS = 270, 1, 5
_GROUP_DESTROY = 3
_DELETE = 1 << 8 | 2
_MESSAGE_BYTES = 1 << 16


class FlowEvents:
    """A context manager, of the network namespace of the thread that enters it. Raises Rejected there."""

    def __init__(self, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._buffer_bytes = buffer_bytes
        self._lock = threading.Lock()
        self._gone: dict[Flow, Carried] = {}
        self._dropped = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._hear, daemon=True)

    def __enter__(self) -> Self:
        self._kernel = _listen(self._buffer_bytes)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._kernel.close()

    def take(self) -> tuple[dict[Flow, Carried], int]:
        """All that went since the last call, to this very moment; and how many more were not heard of."""
        with self._lock:
            self._read_all()
            dropped = _dropped_by(self._kernel)
            gone, lost = self._gone, (dropped - self._dropped) % (1 << 32)
            self._gone, self._dropped = {}, dropped
        return gone, lost

    def _hear(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            with self._lock:
                self._read_all()

    def _read_all(self) -> None:
        while True:
            try:
                data = self._kernel.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            for kind, _, start, end in messages(data):
                entry = read_ended(data, start, end) if kind == _DELETE else None
                if entry is not None:
                    self._gone.setdefault(entry[0], Carried()).add(entry[1])


def _dropped_by(kernel: socket.socket) -> int:
    return int(struct.unpack_from("=I", kernel.getsockopt(socket.SOL_SOCKET, _MEMINFO, 64), 4 * _DROPS)[0])


def _listen(buffer_bytes: int) -> socket.socket:
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | flags, NETFILTER)
    try:
        try:
            kernel.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, buffer_bytes)
        except PermissionError:  # in a container: what net.core.rmem_max allows
            kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        # Without it, one message too many has the kernel throw away all others until the buffer is empty.
        kernel.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        kernel.bind((0, 0))
        kernel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_DESTROY)
    except OSError as error:
        kernel.close()
        raise Rejected(
            f"The kernel does not tell of connections that end: {error.strerror or error}."
        ) from error
    return kernel
