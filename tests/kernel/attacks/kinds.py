"""Kinds of packets that no honest client sends. Each makes its packets for a service and a live connection.

Not among them is what connection tracking has no quarrel with (docs/guides/compared.md lists it).
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from balancer.domain.types import Family
from tests.kernel.attacks.craft import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Path,
    backwards,
    error,
    fragments,
    ip,
    ipv4,
    ipv6,
    tcp,
    udp,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What an attacker knows."""

    tcp: Path
    """From an address of his own to the service."""
    udp: Path
    live: Path
    """Of an honest client's connection, and what comes next in it."""
    seq: int
    ack: int
    number: int
    """Of this attack."""


Kind = Callable[[Aim], list[bytes]]
_NOTHING = b"nobody asked for this"


def kinds(family: Family) -> Mapping[str, Kind]:
    """Name -> how its packets are made."""
    return {**_FLAGS, **_SEGMENTS, **_LIVE, **_DATAGRAMS, **_FRAGMENTS, **_ERRORS} | (
        _IPV4 if family is Family.IPV4 else _IPV6
    )


def _flags(value: int, *, payload: bytes = b"") -> Kind:
    return lambda aim: [ip(aim.tcp, TCP, tcp(aim.tcp, value, payload=payload))]


_FLAGS: dict[str, Kind] = {
    "no flags (null scan)": _flags(0),
    "FIN, PSH and URG (xmas scan)": _flags(FIN | PSH | URG),
    "all flags": _flags(FIN | SYN | RST | PSH | ACK | URG),
    "SYN and FIN": _flags(SYN | FIN),
    "SYN and RST": _flags(SYN | RST),
    "SYN, FIN and ACK": _flags(SYN | FIN | ACK),
    "SYN, RST and ACK": _flags(SYN | RST | ACK),
    "FIN and RST": _flags(FIN | RST),
    "FIN, RST and ACK": _flags(FIN | RST | ACK),
    "FIN of no connection": _flags(FIN),
    "FIN and ACK of no connection": _flags(FIN | ACK),
    "RST of no connection": _flags(RST),
    "RST and ACK of no connection": _flags(RST | ACK),
    "SYN and ACK of no connection": _flags(SYN | ACK),
    "ACK of no connection": _flags(ACK),
    "data of no connection": _flags(PSH | ACK, payload=_NOTHING),
    "URG alone": _flags(URG),
    "PSH alone": _flags(PSH),
}


def _segment(make: Callable[[Path], bytes]) -> Kind:
    return lambda aim: [ip(aim.tcp, TCP, make(aim.tcp))]


_SEGMENTS: dict[str, Kind] = {
    "TCP checksum that is wrong": _segment(lambda path: tcp(path, SYN, checksum_error=0x1234)),
    "TCP header of three words": _segment(lambda path: tcp(path, SYN, offset=3)),
    "TCP header that goes beyond the packet": _segment(lambda path: tcp(path, SYN, offset=15)),
    "TCP header that is cut off": _segment(lambda path: tcp(path, SYN)[:12]),
    "TCP without any header": _segment(lambda path: b""),
}


def _live(flags: int, *, seq: int = 0, ack: int = 0, payload: bytes = b"") -> Kind:
    """In an honest client's connection; `seq` and `ack` say how far beside of what is expected."""

    def make(aim: Aim) -> list[bytes]:
        segment = tcp(aim.live, flags, seq=aim.seq + seq, ack=aim.ack + ack, payload=payload)
        return [ip(aim.live, TCP, segment)]

    return make


_FAR = 1 << 30
_LIVE: dict[str, Kind] = {
    "data far ahead of a connection's window": _live(PSH | ACK, seq=_FAR, payload=_NOTHING),
    "RST far outside of a connection's window": _live(RST, seq=_FAR),
    "ACK of what was never sent": _live(ACK, ack=_FAR),
    "no flags in a live connection": _live(0),
    "SYN and FIN in a live connection": _live(SYN | FIN),
    "FIN, PSH and URG in a live connection": _live(FIN | PSH | URG),
}


def _datagram(make: Callable[[Path], bytes]) -> Kind:
    return lambda aim: [ip(aim.udp, UDP, make(aim.udp))]


_DATAGRAMS: dict[str, Kind] = {
    "UDP checksum that is wrong": _datagram(lambda path: udp(path, _NOTHING, checksum_error=0x1234)),
    "UDP length beyond the packet": _datagram(lambda path: udp(path, _NOTHING, length=200)),
    "UDP length shorter than its header": _datagram(lambda path: udp(path, _NOTHING, length=7)),
    "UDP header that is cut off": _datagram(lambda path: udp(path, _NOTHING)[:5]),
}


def syn_in_pieces(*parts: tuple[int, int, int, bool]) -> Kind:
    """(offset in units of eight bytes, first byte, last byte, whether more follow) of a SYN with data."""

    def make(aim: Aim) -> list[bytes]:
        whole = tcp(aim.tcp, SYN, payload=b"x" * 60)
        pieces = [(offset, whole[first:last], more) for offset, first, last, more in parts]
        return fragments(aim.tcp, TCP, *pieces, number=aim.number)

    return make


_FRAGMENTS: dict[str, Kind] = {
    "fragments that overlap": syn_in_pieces((0, 0, 40, True), (3, 24, 80, False)),
    "a fragment inside of another (teardrop)": syn_in_pieces((0, 0, 48, True), (3, 24, 32, False)),
    "a first fragment that is rewritten (RFC 3128)": syn_in_pieces((0, 0, 16, True), (1, 8, 80, False)),
    "a first fragment without flags and nothing more": syn_in_pieces((0, 0, 8, True)),
    "a first fragment and nothing more": syn_in_pieces((0, 0, 40, True)),
    "a last fragment and nothing before": syn_in_pieces((3, 24, 80, False)),
    "a fragment beyond the longest packet (ping of death)": syn_in_pieces(
        (0, 0, 40, True), (8190, 0, 80, False)
    ),
}


def _unreachable(kind: int, make: Callable[[Path], bytes]) -> Kind:
    """Says that what the service sent did not arrive, of which it sent nothing."""

    def build(aim: Aim) -> list[bytes]:
        path = aim.tcp if kind == TCP else aim.udp
        quoted = backwards(path)
        return [error(path, ip(quoted, kind, make(quoted)))]

    return build


_ERRORS: dict[str, Kind] = {
    "ICMP error about a connection that is not there": _unreachable(TCP, lambda path: tcp(path, ACK)),
    "ICMP error about a datagram that was not sent": _unreachable(UDP, lambda path: udp(path, _NOTHING)),
    "ICMP error that quotes half a header": _unreachable(TCP, lambda path: tcp(path, ACK)[:4]),
}


def _from(address: str) -> Kind:
    def make(aim: Aim) -> list[bytes]:
        path = replace(aim.tcp, source=ip_address(address))
        return [ip(path, TCP, tcp(path, SYN))]

    return make


def _ipv4(**fields: object) -> Kind:
    return lambda aim: [ipv4(aim.tcp, TCP, tcp(aim.tcp, SYN), **fields)]  # type: ignore[arg-type]


def _route_by(kind: int) -> Kind:
    """Source routing by way of the service."""
    return lambda aim: [
        ipv4(aim.tcp, TCP, tcp(aim.tcp, SYN), options=bytes([kind, 7, 4]) + aim.tcp.source.packed + b"\1")
    ]


def _land(aim: Aim) -> list[bytes]:
    path = replace(aim.tcp, source=aim.tcp.destination, source_port=aim.tcp.port)
    return [ip(path, TCP, tcp(path, SYN))]


_IPV4: dict[str, Kind] = {
    "the service's own address as the source (land)": _land,
    "loopback as the source": _from("127.0.0.1"),
    "a group as the source": _from("224.0.0.1"),
    "everybody as the source": _from("255.255.255.255"),
    "IP checksum that is wrong": _ipv4(checksum_error=0x4321),
    "IP version 5": _ipv4(version=5),
    "IP header of four words": _ipv4(words=4),
    "IP header that goes beyond the packet": _ipv4(words=15, length=40),
    "IP length beyond the packet": _ipv4(length=400),
    "IP length shorter than its header": _ipv4(length=12),
    "IP option with a length of nothing": _ipv4(options=bytes([7, 0, 4, 0])),
    "IP option that goes beyond the header": _ipv4(options=bytes([7, 39, 4, 0])),
    "loose source route": _route_by(131),
    "strict source route": _route_by(137),
}


def _extended(kind: int, extension: bytes) -> Kind:
    return lambda aim: [ipv6(aim.tcp, kind, extension + tcp(aim.tcp, SYN))]


_HOP_BY_HOP, _ROUTING, _FRAGMENT, _NONE, _DESTINATION = 0, 43, 44, 59, 60
_IPV6: dict[str, Kind] = {
    "loopback as the source": _from("::1"),
    "a group as the source": _from("ff02::1"),
    "nobody as the source": _from("::"),
    "IP version 5": lambda aim: [ipv6(aim.tcp, TCP, tcp(aim.tcp, SYN), version=5)],
    "IP length beyond the packet": lambda aim: [ipv6(aim.tcp, TCP, tcp(aim.tcp, SYN), length=400)],
    "IP length shorter than the TCP header": lambda aim: [ipv6(aim.tcp, TCP, tcp(aim.tcp, SYN), length=12)],
    "hop-by-hop option that goes beyond its header": _extended(
        _HOP_BY_HOP, struct.pack("!BBBB4x", TCP, 0, 5, 40)
    ),
    "hop-by-hop option that asks to be dropped": _extended(
        _HOP_BY_HOP, struct.pack("!BBBB4x", TCP, 0, 0x9E, 4)
    ),
    "extension header that goes beyond the packet": _extended(_DESTINATION, struct.pack("!BB6x", TCP, 200)),
    "extension header behind which nothing is": lambda aim: [
        ipv6(aim.tcp, _DESTINATION, struct.pack("!BB6x", TCP, 0))
    ],
    "a header that says that nothing follows": lambda aim: [ipv6(aim.tcp, _NONE, tcp(aim.tcp, SYN))],
    "a fragment header that is cut off": lambda aim: [ipv6(aim.tcp, _FRAGMENT, struct.pack("!BB", TCP, 0))],
    "a first fragment of an odd length": syn_in_pieces((0, 0, 41, True), (5, 40, 80, False)),
}
