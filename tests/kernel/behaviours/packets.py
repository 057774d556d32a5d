"""First packets of connections, made by hand, and what is read off a wire.

One packet is a flow: a datagram, a TCP SYN or an SCTP INIT, from whatever address. Each carries a number (in
the datagram, as TCP's sequence number, as SCTP's initiate tag) that NAT leaves alone, so that it is known
again.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from balancer.domain.types import Address, Family, Protocol

PROTOCOL_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_PROTOCOLS = {number: protocol for protocol, number in PROTOCOL_NUMBERS.items()}
_ICMP = {1: (3,), 58: (1,)}
"""Protocol -> the types that say "unreachable" (RFC 792, RFC 4443)."""
_SYN, _RST = 0x02, 0x04
_IPV4_HEADER, _IPV6_HEADER = 20, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A packet on a wire that belongs to flow `number`."""

    number: int
    refusal: bool
    """A TCP reset, or an ICMP message that says the port is unreachable."""
    protocol: Protocol
    source: Address
    destination: Address
    port: int
    """The destination's."""


def make_packet(
    *, protocol: Protocol, source: Address, source_port: int, destination: Address, port: int, number: int
) -> bytes:
    ports = struct.pack("!HH", source_port, port)
    match protocol:
        case Protocol.UDP:
            body = ports + struct.pack("!HHQ", 16, 0, number)
        case Protocol.TCP:
            body = ports + struct.pack("!IIBBHHH", number, 0, 5 << 4, _SYN, 65535, 0, 0)
        case Protocol.SCTP:
            body = (
                ports + struct.pack("!II", 0, 0) + struct.pack("!BBHIIHHI", 1, 0, 20, number, 65535, 1, 1, 1)
            )
    kind = PROTOCOL_NUMBERS[protocol]
    body = _with_checksum(body, protocol, pseudo_header(source, destination, len(body), kind))
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), kind, 64) + source.packed + destination.packed + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, _IPV4_HEADER + len(body), 0, 0, 64, kind, 0)
    head += source.packed + destination.packed
    return head[:10] + struct.pack("!H", ones_sum(head)) + head[12:] + body


def read_packet(packet: bytes, *, family: Family) -> Seen | None:
    """None where it is none of ours."""
    if family is Family.IPV6:
        kind, body = packet[6], packet[_IPV6_HEADER:]
        source, destination = packet[8:24], packet[24:40]
    else:
        kind, body = packet[9], packet[(packet[0] & 15) * 4 :]
        source, destination = packet[12:16], packet[16:20]
    if kind in _ICMP:
        inner = read_packet(body[8:], family=family) if body[0] in _ICMP[kind] else None
        return None if inner is None else _refused(inner)
    found = _number(kind, body)
    if found is None:
        return None
    number, refusal = found
    return Seen(
        number=number,
        refusal=refusal,
        protocol=_PROTOCOLS[kind],
        source=ip_address(source),
        destination=ip_address(destination),
        port=int.from_bytes(body[2:4], "big"),
    )


def is_numbered(packet: bytes, number: int, *, family: Family) -> bool:
    """Whether this is the packet with that number; anything may have been cut off of it."""
    try:
        seen = read_packet(packet, family=family)
    except (IndexError, struct.error):
        return False
    return seen is not None and seen.number == number


def is_traffic(packet: bytes, family: Family) -> bool:
    """A packet of some connection, or word that there is none; not what machines on a link say."""
    kind, place = (packet[6], _IPV6_HEADER) if family is Family.IPV6 else (packet[9], _IPV4_HEADER)
    return packet[place] in _ICMP[kind] if kind in _ICMP else True


def _refused(inner: Seen) -> Seen:
    return Seen(
        number=inner.number,
        refusal=True,
        protocol=inner.protocol,
        source=inner.source,
        destination=inner.destination,
        port=inner.port,
    )


def _number(kind: int, body: bytes) -> tuple[int, bool] | None:
    """The number of the flow, and whether this is a reset."""
    match kind:
        case 17 if len(body) >= 16:
            return struct.unpack_from("!Q", body, 8)[0], False
        case 6 if body[13] & _RST:
            return struct.unpack_from("!I", body, 8)[0] - 1, True
        case 6 if body[13] == _SYN:
            return struct.unpack_from("!I", body, 4)[0], False
        case 132 if body[12] == 1:
            return struct.unpack_from("!I", body, 16)[0], False
    return None


def _with_checksum(body: bytes, protocol: Protocol, pseudo: bytes) -> bytes:
    match protocol:
        case Protocol.UDP:
            return body[:6] + struct.pack("!H", ones_sum(pseudo + body) or 0xFFFF) + body[8:]
        case Protocol.TCP:
            return body[:16] + struct.pack("!H", ones_sum(pseudo + body)) + body[18:]
        case _:
            return body[:8] + struct.pack("<I", _crc32c(body)) + body[12:]


def pseudo_header(source: Address, destination: Address, length: int, kind: int) -> bytes:
    shape = "!IHBB" if source.version == 6 else "!BBH"
    tail = (length, 0, 0, kind) if source.version == 6 else (0, kind, length)
    return source.packed + destination.packed + struct.pack(shape, *tail)


def ones_sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


ETHERTYPES = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}


def open_wire(interface: str, *, family: Family) -> socket.socket:
    """Reads whatever comes in at an interface of the calling thread's namespace, and sends out of it."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPES[family]))
    wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
    wire.bind((interface, ETHERTYPES[family]))
    return wire


_SO_RCVBUFFORCE = 33
