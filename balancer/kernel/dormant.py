"""Tables of nf_tables that somebody has put to sleep (`flags dormant`): none of their rules does anything.

iptables-nft-save prints such a table as if it were awake, and writing to it wakes it up no more.
"""

import socket
import struct
from collections.abc import Iterator

from balancer.domain.drift import NATIVE
from balancer.domain.types import Family
from balancer.kernel.base import HostCheck

_NETLINK_NETFILTER = 12
_GET_TABLE = 10 << 8 | 1
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE."""
_DUMP = 0x301
"""NLM_F_REQUEST | NLM_F_DUMP."""
_NAME, _FLAGS, _DORMANT = 1, 2, 1
"""NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFT_TABLE_F_DORMANT."""
_HEADER, _FAMILY, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
_FAMILIES = {Family.IPV4: (2, "ip"), Family.IPV6: (10, "ip6")}
_TABLES = ("filter", "mangle", "nat", "raw")
"""Of iptables-nft, where our chains are."""
_TIMEOUT_SECONDS = 1.0


def find_dormant(family: Family) -> tuple[str, ...]:
    """Those of iptables-nft, as `ip nat`; nothing where the kernel does not tell."""
    number, word = _FAMILIES[family]
    found = {name for kind, name, flags in _list_tables() if kind == number and flags & _DORMANT}
    return tuple(f"{word} {name}" for name in _TABLES if name in found)


def describe_dormant(tables: tuple[str, ...]) -> tuple[str, ...]:
    """For the drift of order."""
    return tuple(f"{NATIVE}{table}: flags dormant" for table in tables)


def check_dormant(family: Family) -> Iterator[HostCheck]:
    """nft-dormant."""
    for table in find_dormant(family):
        yield HostCheck(
            id="nft-dormant",
            message=(
                f"Somebody has put table {table} to sleep (flags dormant), with the rules of lbadmin in it:"
                f" nothing there works. Wake it up with 'nft add table {table}'."
            ),
        )


def _list_tables() -> Iterator[tuple[int, str, int]]:
    """(family, name, flags) of every table in the network namespace of the calling thread."""
    length = _HEADER.size + _FAMILY.size
    question = _HEADER.pack(length, _GET_TABLE, _DUMP, 1, 0) + _FAMILY.pack(0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asked:
            asked.settimeout(_TIMEOUT_SECONDS)
            asked.send(question)
            while True:
                answer = asked.recv(65536)
                yield from _read_tables(answer)
                if not answer or _ends(answer):
                    return
    except (OSError, struct.error):
        return


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _HEADER.size <= len(answer):
        length, kind, _, _, _ = _HEADER.unpack_from(answer, place)
        yield kind, answer[place + _HEADER.size : place + length]
        place += max((length + 3) & ~3, _HEADER.size)


def _ends(answer: bytes) -> bool:
    """The dump is over, or was refused."""
    return any(kind >> 8 != _GET_TABLE >> 8 for kind, _ in _messages(answer))


def _read_tables(answer: bytes) -> Iterator[tuple[int, str, int]]:
    for kind, body in _messages(answer):
        if kind >> 8 == _GET_TABLE >> 8:
            found = dict(_attributes(body))
            name = found.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
            (flags,) = struct.unpack("!I", found.get(_FLAGS, b"\0\0\0\0"))
            yield body[0], name, flags


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    place = _FAMILY.size
    while place + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, place)
        yield kind, body[place + _ATTRIBUTE.size : place + length]
        place += (max(length, _ATTRIBUTE.size) + 3) & ~3
