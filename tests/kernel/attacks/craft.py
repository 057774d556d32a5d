"""Packets made by hand, right or wrong in any field: headers are bytes, and nothing is checked.

What an attacker sends has the hop limit HOPS, which no honest packet of the lab has, so that it is known
again behind the node.
"""

import struct
from dataclasses import dataclass, replace

from balancer.domain.types import Address

HOPS = 201
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
_FRAGMENT, _MORE = 44, 0x2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """From whom to whom."""

    source: Address
    destination: Address
    source_port: int
    port: int

    @property
    def is_ipv6(self) -> bool:
        return self.source.version == 6


def tcp(
    path: Path,
    flags: int,
    *,
    seq: int = 1000,
    ack: int = 0,
    payload: bytes = b"",
    offset: int | None = None,
    options: bytes = b"",
    checksum_error: int = 0,
) -> bytes:
    """A segment. `offset` is the length of its header in words, where that is to be a lie."""
    words = 5 + len(options) // 4 if offset is None else offset
    head = struct.pack(
        "!HHIIBBHHH",
        path.source_port,
        path.port,
        seq % 2**32,
        ack % 2**32,
        words << 4,
        flags,
        8192,
        0,
        0,
    )
    body = head + options + payload
    right = checksum(pseudo(path, len(body), TCP) + body)
    return body[:16] + struct.pack("!H", right ^ checksum_error) + body[18:]


def udp(
    path: Path,
    payload: bytes,
    *,
    length: int | None = None,
    checksum_error: int = 0,
    check: int | None = None,
) -> bytes:
    """A datagram. `length` and `check` stand in its header whatever they should be."""
    size = 8 + len(payload) if length is None else length
    body = struct.pack("!HHHH", path.source_port, path.port, size, 0) + payload
    right = (checksum(pseudo(path, len(body), UDP) + body) or 0xFFFF) ^ checksum_error
    return body[:6] + struct.pack("!H", right if check is None else check) + body[8:]


def ip(path: Path, kind: int, body: bytes, *, hops: int = HOPS) -> bytes:
    """A packet of the path's family."""
    return ipv6(path, kind, body, hops=hops) if path.is_ipv6 else ipv4(path, kind, body, hops=hops)


def ipv4(
    path: Path,
    kind: int,
    body: bytes,
    *,
    hops: int = HOPS,
    version: int = 4,
    words: int | None = None,
    length: int | None = None,
    fragment: int = 0,
    number: int = 0,
    options: bytes = b"",
    checksum_error: int = 0,
) -> bytes:
    """`fragment`: the flags and the offset in units of eight bytes."""
    header = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH",
        version << 4 | (header // 4 if words is None else words),
        0,
        header + len(body) if length is None else length,
        number,
        fragment,
        hops,
        kind,
        0,
    )
    head += path.source.packed + path.destination.packed + options
    return head[:10] + struct.pack("!H", checksum(head) ^ checksum_error) + head[12:] + body


def ipv6(
    path: Path, kind: int, body: bytes, *, hops: int = HOPS, version: int = 6, length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return (
        struct.pack("!IHBB", version << 28, size, kind, hops)
        + path.source.packed
        + path.destination.packed
        + body
    )


def fragments(path: Path, kind: int, *parts: tuple[int, bytes, bool], number: int) -> list[bytes]:
    """(offset in units of eight bytes, bytes, whether more follow) of one packet."""
    return [
        fragment(path, kind, offset=offset, body=body, more=more, number=number)
        for offset, body, more in parts
    ]


def fragment(path: Path, kind: int, *, offset: int, body: bytes, more: bool, number: int) -> bytes:
    if not path.is_ipv6:
        return ipv4(path, kind, body, fragment=offset | (_MORE if more else 0), number=number)
    head = struct.pack("!BBHI", kind, 0, offset << 3 | more, number)
    return ipv6(path, _FRAGMENT, head + body)


def error(path: Path, quoted: bytes) -> bytes:
    """An ICMP message that says that `quoted` did not arrive."""
    if not path.is_ipv6:
        body = struct.pack("!BBHI", 3, 3, 0, 0) + quoted
        return ipv4(path, ICMP, body[:2] + struct.pack("!H", checksum(body)) + body[4:])
    body = struct.pack("!BBHI", 1, 4, 0, 0) + quoted
    right = checksum(pseudo(path, len(body), ICMP6) + body)
    return ipv6(path, ICMP6, body[:2] + struct.pack("!H", right) + body[4:])


def backwards(path: Path) -> Path:
    return replace(
        path,
        source=path.destination,
        destination=path.source,
        source_port=path.port,
        port=path.source_port,
    )


def pseudo(path: Path, length: int, kind: int) -> bytes:
    shape, tail = ("!IHBB", (length, 0, 0, kind)) if path.is_ipv6 else ("!BBH", (0, kind, length))
    return path.source.packed + path.destination.packed + struct.pack(shape, *tail)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
