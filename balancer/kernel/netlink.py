"""Words of netlink(7): messages, and the attributes in them. Pure."""

import struct
from collections.abc import Iterator

NETFILTER = 12
"""NETLINK_NETFILTER, the protocol of all that is said to and by the kernel's netfilter."""
REQUEST, ACK, DUMP, NESTED = 1, 4, 0x300, 0x8000
ERROR, DONE = 2, 3
HEAD = 16
"""Bytes of a message before its content; netfilter's own four stand behind them."""
FAMILY_HEAD = 4

_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_KIND = 0x3FFF


def message(kind: int, *, flags: int, number: int, family: int, body: bytes) -> bytes:
    """To netfilter: the family, then the attributes."""
    whole = struct.pack("=BBH", family, 0, 0) + body
    return _HEAD.pack(HEAD + len(whole), kind, flags, number, 0) + whole


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(kind, number, where its content begins, where it ends) of each message in what was received."""
    start = 0
    while start + HEAD <= len(data):
        length, kind, _, number, _ = _HEAD.unpack_from(data, start)
        yield kind, number, start + HEAD, start + length
        start += max(HEAD, (length + 3) & ~3)


def attributes(data: bytes, start: int, end: int) -> dict[int, tuple[int, int]]:
    """Kind of each attribute -> where its value begins and ends."""
    found = {}
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        found[kind & _KIND] = (start + 4, start + length)
        start += max(4, (length + 3) & ~3)
    return found
