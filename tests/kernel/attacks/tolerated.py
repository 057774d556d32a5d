"""What is odd and passed on all the same: connection tracking has no quarrel with it.

docs/guides/compared.md lists it; what is not there has to be in `kinds`.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from tests.kernel.attacks.craft import ACK, PSH, SYN, TCP, UDP, Path, ip, ipv4, ipv6, tcp, udp
from tests.kernel.attacks.kinds import Aim, Kind, syn_in_pieces

_CWR, _ECE = 0x80, 0x40
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60


def answered(family: Family) -> Mapping[str, Kind]:
    """SYNs that a backend answers as any other."""
    return _SYNS | (_IPV4 if family is Family.IPV4 else _IPV6)


def ignored(family: Family, flavour: Flavour) -> Mapping[str, Kind]:
    """SYNs that come to a backend's wire, and end in its own IP."""
    if family is Family.IPV4:
        return {}
    # nf_tables looks for TCP behind no authentication header, and ends there (nft_set_pktinfo_ipv6).
    return _IPV6_IGNORED | (_AUTHENTICATED if flavour is Flavour.LEGACY else {})


def others() -> Mapping[str, Kind]:
    """What begins no TCP connection."""
    return _OTHERS


def _syn(flags: int = SYN, *, options: bytes = b"", payload: bytes = b"", source_port: int = -1) -> Kind:
    def make(aim: Aim) -> list[bytes]:
        path = aim.tcp if source_port < 0 else replace(aim.tcp, source_port=source_port)
        return [ip(path, TCP, tcp(path, flags, options=options, payload=payload))]

    return make


_SYNS: dict[str, Kind] = {
    "SYN from port 0": _syn(source_port=0),
    "SYN with data": _syn(payload=b"too early"),
    "SYN and PSH": _syn(SYN | PSH),
    "SYN, ECE and CWR, which asks for ECN": _syn(SYN | _ECE | _CWR),
    "TCP option without a length": _syn(options=bytes([2, 0, 5, 180])),
    "TCP option that goes beyond the header": _syn(options=bytes([2, 40, 5, 180])),
    "TCP option that nobody knows": _syn(options=bytes([200, 4, 0, 0])),
    "largest segment of nothing": _syn(options=bytes([2, 4, 0, 0])),
    "largest segment said twice": _syn(options=bytes([2, 4, 5, 180, 2, 4, 0, 1])),
    "scale of windows beyond all bounds": _syn(options=bytes([3, 3, 255, 1])),
    "SACK before there is anything": _syn(options=bytes([5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1])),
}


def _ipv4(**fields: int | bytes) -> Kind:
    return lambda aim: [ipv4(aim.tcp, TCP, tcp(aim.tcp, SYN), **fields)]  # type: ignore[arg-type]


_IPV4: dict[str, Kind] = {
    "a first fragment of an odd length": syn_in_pieces((0, 0, 41, True), (5, 40, 80, False)),
    "the reserved bit of IP": _ipv4(fragment=0x8000),
    "IP option: record route": _ipv4(options=bytes([7, 7, 4, 0, 0, 0, 0, 0])),
    "IP option: timestamp": _ipv4(options=bytes([68, 8, 5, 0, 0, 0, 0, 0])),
    "IP option: router alert": _ipv4(options=bytes([148, 4, 0, 0])),
    "IP option that nobody knows": _ipv4(options=bytes([30, 4, 0, 0])),
}


def _behind(*headers: tuple[int, bytes]) -> Kind:
    """(kind, what it holds behind the number of the next one) of extension headers."""

    def make(aim: Aim) -> list[bytes]:
        body, following = tcp(aim.tcp, SYN), TCP
        for kind, rest in reversed(headers):
            body, following = bytes([following]) + rest + body, kind
        return [ipv6(aim.tcp, following, body)]

    return make


def _option(kind: int, *, length: int = 4) -> bytes:
    return bytes([0, kind, length, 0, 0, 0, 0])


def _route(kind: int, *, left: int) -> Kind:
    """By way of an address that is nobody's."""
    return _behind((_ROUTING, bytes([2, kind, left, 0, 0, 0, 0]) + bytes([0x20, 1, 0xD, 0xB8] + [0] * 12)))


def _land(aim: Aim) -> list[bytes]:
    path = replace(aim.tcp, source=aim.tcp.destination, source_port=aim.tcp.port)
    return [ip(path, TCP, tcp(path, SYN))]


_PADDING = _option(1)
_IPV6: dict[str, Kind] = {
    "routing header of type 0 that has been used up": _route(0, left=0),
    "routing header that nobody knows and has been used up": _route(200, left=0),
    "hop-by-hop options": _behind((_HOP_BY_HOP, _PADDING)),
    "hop-by-hop option that may be skipped": _behind((_HOP_BY_HOP, _option(0x1E))),
    "destination options": _behind((_DESTINATION, _PADDING)),
    "destination options nine times": _behind(*[(_DESTINATION, _PADDING)] * 9),
    "destination option that may be skipped": _behind((_DESTINATION, _option(0x1E))),
    "a fragment that is the whole": _behind((_FRAGMENT, struct.pack("!BHI", 0, 0, 77))),
    "a fragment that is the whole, with reserved bits": _behind((_FRAGMENT, struct.pack("!BHI", 9, 6, 77))),
}
_IPV6_IGNORED: dict[str, Kind] = {
    "routing header of type 0": _route(0, left=1),
    "routing header of type 2": _route(2, left=1),
    "segment routing header": _route(4, left=1),
    "routing header that nobody knows": _route(200, left=1),
    "destination option that asks to be dropped": _behind((_DESTINATION, _option(0x5E))),
    "destination option that asks for an error": _behind((_DESTINATION, _option(0x9E))),
    "destination option that goes beyond its header": _behind((_DESTINATION, _option(1, length=40))),
    "hop-by-hop options that are not first": _behind((_DESTINATION, _PADDING), (_HOP_BY_HOP, _PADDING)),
    "the service's own address as the source (land)": _land,
}

_AUTHENTICATED: dict[str, Kind] = {
    "authentication header": _behind((_AUTHENTICATION, struct.pack("!BHII", 1, 0, 1, 1))),
}


def _datagram(make: Callable[[Path], bytes], *, source_port: int = -1) -> Kind:
    def build(aim: Aim) -> list[bytes]:
        path = aim.udp if source_port < 0 else replace(aim.udp, source_port=source_port)
        return [ip(path, UDP, make(path))]

    return build


def _again(aim: Aim) -> list[bytes]:
    return [ip(aim.live, TCP, tcp(aim.live, PSH | ACK, seq=aim.seq - 4, ack=aim.ack, payload=b"ping"))]


_OTHERS: dict[str, Kind] = {
    "UDP from port 0": _datagram(lambda path: udp(path, b"x"), source_port=0),
    "UDP without a checksum": _datagram(lambda path: udp(path, b"x", check=0)),
    "UDP with nothing in it": _datagram(lambda path: udp(path, b"")),
    "data that was acknowledged long ago": _again,
}
