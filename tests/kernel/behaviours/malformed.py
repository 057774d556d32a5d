"""Packets that no honest client begins a connection with. Each is named for what is wrong with it."""

import struct
from collections.abc import Iterator
from itertools import combinations

from balancer.domain.types import Address
from tests.kernel.behaviours.packets import ones_sum, pseudo_header

_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
_BEGIN = {frozenset({"SYN"}), frozenset({"SYN", "PSH"})}
_SOURCE_PORT = 20_000
_TCP, _UDP = 6, 17


def malformed_tcp(source: Address, destination: Address, port: int) -> dict[str, list[bytes]]:
    """Name -> the packets, most often one."""
    found = {
        f"flags {'+'.join(flags) or 'none'}": [_tcp(source, destination, port, flags)]
        for count in range(len(_FLAGS) + 1)
        for flags in combinations(_FLAGS, count)
        if frozenset(flags) not in _BEGIN
    }
    syn = _segment(port, ("SYN",))
    found |= {
        "wrong checksum": [_packet(source, destination, _TCP, _summed(source, destination, syn, wrong=1))],
        "header said to be 16 bytes": [_tcp(source, destination, port, ("SYN",), words=4)],
        "header said to be empty": [_tcp(source, destination, port, ("SYN",), words=0)],
        "header longer than the packet": [_tcp(source, destination, port, ("SYN",), words=15)],
        "cut in the flags": [_packet(source, destination, _TCP, syn[:13])],
        "cut behind the ports": [_packet(source, destination, _TCP, syn[:4])],
        "cut in the ports": [_packet(source, destination, _TCP, syn[:2])],
        "nothing but an IP header": [_packet(source, destination, _TCP, b"")],
    }
    return found | dict(_fragments(source, destination, _TCP, _summed(source, destination, syn + bytes(44))))


def malformed_udp(source: Address, destination: Address, port: int) -> dict[str, list[bytes]]:
    good = struct.pack("!HHHHQ", _SOURCE_PORT, port, 16, 0, 1)

    def datagram(length: int, *, wrong: int = 0) -> list[bytes]:
        body = good[:4] + struct.pack("!HH", length, 0) + good[8:]
        total = ones_sum(pseudo_header(source, destination, len(body), _UDP) + body) ^ wrong
        return [_packet(source, destination, _UDP, body[:6] + struct.pack("!H", total) + body[8:])]

    return {
        "UDP wrong checksum": datagram(16, wrong=1),
        "UDP longer than the packet": datagram(17),
        "UDP shorter than its header": datagram(7),
        "UDP cut in the header": [_packet(source, destination, _UDP, good[:6])],
    }


def _fragments(
    source: Address, destination: Address, kind: int, body: bytes
) -> Iterator[tuple[str, list[bytes]]]:
    """Fragments of which no whole packet can be made."""

    def fragment(first: int, last: int, *, more: bool, number: int) -> bytes:
        return _packet(source, destination, kind, body[first:last], at=first, more=more, number=number)

    yield "a first fragment alone", [fragment(0, 32, more=True, number=11)]
    yield "a tiny first fragment alone", [fragment(0, 8, more=True, number=12)]
    yield "a last fragment alone", [fragment(32, 64, more=False, number=13)]
    yield (
        "fragments that overlap",
        [
            fragment(0, 32, more=True, number=14),
            fragment(24, 48, more=True, number=14),
            fragment(48, 64, more=False, number=14),
        ],
    )
    yield (
        "fragments with a gap",
        [fragment(0, 16, more=True, number=15), fragment(32, 64, more=False, number=15)],
    )


def _tcp(
    source: Address, destination: Address, port: int, flags: tuple[str, ...], *, words: int = 5
) -> bytes:
    body = _summed(source, destination, _segment(port, flags, words=words))
    return _packet(source, destination, _TCP, body)


def _segment(port: int, flags: tuple[str, ...], *, words: int = 5) -> bytes:
    bits = sum(_FLAGS[flag] for flag in flags)
    return struct.pack("!HHIIBBHHH", _SOURCE_PORT, port, 1, 1, words << 4, bits, 65535, 0, 1)


def _summed(source: Address, destination: Address, body: bytes, *, wrong: int = 0) -> bytes:
    total = ones_sum(pseudo_header(source, destination, len(body), _TCP) + body) ^ wrong
    return body[:16] + struct.pack("!H", total) + body[18:]


def _packet(
    source: Address,
    destination: Address,
    kind: int,
    body: bytes,
    *,
    at: int = 0,
    more: bool = False,
    number: int | None = None,
) -> bytes:
    """An IP packet, or a fragment of one: that of the bytes from `at`."""
    if source.version == 6:
        if number is not None:
            body = struct.pack("!BBHI", kind, 0, at | more, number) + body
            kind = 44
        return struct.pack("!IHBB", 6 << 28, len(body), kind, 64) + source.packed + destination.packed + body
    place = at >> 3 | more << 13
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), number or 0, place, 64, kind, 0)
    head += source.packed + destination.packed
    return head[:10] + struct.pack("!H", ones_sum(head)) + head[12:] + body
