"""Deletion of single connection tracking entries, by what names them in the kernel (ctnetlink, in Python).

conntrack(8) reads the whole table for each description that it is given: 1,000 ports of a service that lost
a backend took seconds. Here each entry costs microseconds, and an entry that came in the place of one that
ended meanwhile is told apart by its id.
"""

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from errno import EBUSY, ENOENT
from itertools import islice

from balancer.domain.types import Address, Protocol
from balancer.kernel.base import Rejected
from balancer.kernel.netlink import ACK, ERROR, NESTED, NETFILTER, REQUEST, attribute, message, messages

_DELETE = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE (linux/netfilter/nfnetlink_conntrack.h)."""
_ORIGINAL, _ID, _ZONE = 1, 12, 18
_BATCH = 200
_SECONDS = 10
_NUMBERS = {
    Protocol.TCP: socket.IPPROTO_TCP,
    Protocol.UDP: socket.IPPROTO_UDP,
    Protocol.SCTP: socket.IPPROTO_SCTP,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    source: Address
    source_port: int
    destination: Address
    port: int

    @property
    def reversed(self) -> "Direction":
        return Direction(
            source=self.destination,
            source_port=self.port,
            destination=self.source,
            port=self.source_port,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry: what the client sends, what is answered to it, and what tells it from a later one."""

    protocol: Protocol
    original: Direction
    reply: Direction
    state: str = ""
    """As conntrack(8) spells it; empty for UDP."""
    id: int | None = None
    zone: int = 0


def delete_entries(entries: Iterable[Entry]) -> int:
    """How many were deleted; those that ended by themselves meanwhile are not counted.

    Raises Rejected when the kernel refuses, and where that is because a flow table forwards them (EBUSY;
    until commit 9b7c68b3911a of Linux 6.4, 6.1.32, 5.15.115 and 5.10.182) only after all others are deleted.
    """
    waiting, removed, held = iter(entries), 0, 0
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as kernel:
            kernel.settimeout(_SECONDS)
            while batch := tuple(islice(waiting, _BATCH)):
                failed = _delete_batch(kernel, batch)
                removed += len(batch) - sum(failed.values())
                held += failed[EBUSY]
    except OSError as error:
        raise Rejected(f"The kernel did not delete connections: {error.strerror or error}.") from error
    if held:
        raise Rejected(
            f"{held} of them are forwarded by a flow table, and a kernel as old as this one lets nobody"
            " delete those: they end by themselves. Take the services' interfaces out of the flow table."
        )
    return removed


def _delete_batch(kernel: socket.socket, batch: tuple[Entry, ...]) -> Counter[int]:
    """How many were not deleted, by errno. The kernel answers to each that failed and, because it is asked
    to, to the last."""
    last, failed = len(batch) - 1, Counter[int]()
    kernel.send(b"".join(_message(entry, number, ask=number == last) for number, entry in enumerate(batch)))
    while True:
        for number, code in _answers(kernel.recv(1 << 16)):
            if code not in {0, ENOENT, EBUSY}:
                raise OSError(code, os.strerror(code))
            failed[code] += code != 0
            if number == last:
                return failed


def _answers(data: bytes) -> Iterator[tuple[int, int]]:
    """(number of the message, errno)."""
    for kind, number, start, _ in messages(data):
        if kind == ERROR:
            yield number, -struct.unpack_from("=i", data, start)[0]


def _message(entry: Entry, number: int, *, ask: bool) -> bytes:
    way = entry.original
    version6 = way.source.version == 6
    first = 3 if version6 else 1
    addresses = attribute(first, way.source.packed) + attribute(first + 1, way.destination.packed)
    ports = (
        attribute(1, bytes([_NUMBERS[entry.protocol]]))
        + attribute(2, struct.pack("!H", way.source_port))
        + attribute(3, struct.pack("!H", way.port))
    )
    tuples = attribute(1 | NESTED, addresses) + attribute(2 | NESTED, ports)
    body = attribute(_ORIGINAL | NESTED, tuples)
    if entry.id is not None:
        body += attribute(_ID, struct.pack("!I", entry.id))
    if entry.zone:
        body += attribute(_ZONE, struct.pack("!H", entry.zone))
    return message(
        _DELETE,
        flags=REQUEST | (ACK if ask else 0),
        number=number,
        family=socket.AF_INET6 if version6 else socket.AF_INET,
        body=body,
    )
