"""Telling the two ends of a TCP connection that was cut, without knowing its sequence numbers.

An end that only waits would never learn of it. So each end gets a SYN that looks as if it came from the
other: a host in an established connection answers it with an acknowledgement (RFC 9293 3.10.7.4, RFC 5961 4)
and changes nothing. The SYN makes an entry through which the answer comes to the node itself, which knows no
such connection and resets it, with the numbers of the answer, so that the end believes it. A firewall before
the client may drop the SYN, and a client may be far away; then it learns with what it sends next, or with its
keepalive.
"""

import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

from balancer.domain.types import Protocol
from balancer.kernel.base import Rejected
from balancer.kernel.conntrack_delete import Direction, Entry, delete_entries

_WAITING = {"SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", ""}
"""An end in another state sends again by itself, or has no connection any more. Of one that a flow table
forwards (established, then) the kernel tells none."""
_ANSWERED_WITHIN = 0.25
"""Seconds."""
_AT_ONCE = 16_384
"""Connections. Their SYNs are two entries each for that long, and the table is everybody's: so many more than
were there before the cut it can hold."""
_BUFFER = 64 << 20
"""Bytes, for the SYNs of as many. A neighbour that does not answer (often why a backend is disabled) keeps
some two hundred of them for seconds, and in a usual buffer holds up all others."""
_SO_SNDBUFFORCE = 32
"""asm-generic/socket.h; beyond net.core.wmem_max, with CAP_NET_ADMIN."""
_SYN, _WINDOW, _HOPS = 2, 1024, 64


def nudge_ends(cut: Iterable[Entry]) -> None:
    """Of connections whose entries are deleted. Best effort: what cannot be sent is not."""
    waiting = iter([entry for entry in cut if entry.state in _WAITING])
    while some := tuple(islice(waiting, _AT_ONCE)):
        with suppress(OSError, Rejected):
            _nudge([way for entry in some for way in (entry.original.reversed, entry.reply.reversed)])


def _nudge(ways: list[Direction]) -> None:
    family = socket.AF_INET if ways[0].source.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        raw.setblocking(False)
        for way in ways:
            with suppress(OSError):
                raw.sendto(_packet(way), (str(way.destination), 0))
    time.sleep(_ANSWERED_WITHIN)
    # Later these entries would be in the way of a client that connects again from the same port.
    delete_entries(Entry(protocol=Protocol.TCP, original=way, reply=way.reversed) for way in ways)


def _packet(way: Direction) -> bytes:
    """A SYN with its IP header; the kernel fills in length and checksum of that of IPv4."""
    source, destination = way.source.packed, way.destination.packed
    header = struct.pack("!HHIIBBHHH", way.source_port, way.port, 0, 0, 5 << 4, _SYN, _WINDOW, 0, 0)
    pseudo = source + destination + struct.pack("!II", len(header), socket.IPPROTO_TCP)
    segment = header[:16] + struct.pack("!H", _checksum(pseudo + header)) + header[18:]
    if way.source.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, _HOPS)
            + source
            + destination
            + segment
        )
    length = 20 + len(segment)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, _HOPS, socket.IPPROTO_TCP, 0)
    return ip + source + destination + segment


def _checksum(data: bytes) -> int:
    """Of RFC 1071, over an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
