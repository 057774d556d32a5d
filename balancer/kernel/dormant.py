"""Tables of nf_tables that somebody has put to sleep (`flags dormant`): none of their rules does anything.

iptables-nft-save prints such a table as if it were awake, and writing to it wakes it up no more.
"""

import socket
import struct
from collections.abc import Iterator

from balancer.domain.drift import NATIVE
from balancer.domain.types import Family
from balancer.kernel import netlink
from balancer.kernel.base import HostCheck

_GET_TABLE = 10 << 8 | 1
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE."""
_NAME, _FLAGS, _DORMANT = 1, 2, 1
"""NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFT_TABLE_F_DORMANT."""
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
    question = netlink.message(_GET_TABLE, flags=netlink.REQUEST | netlink.DUMP, number=1, family=0, body=b"")
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETFILTER) as asked:
            asked.settimeout(_TIMEOUT_SECONDS)
            asked.send(question)
            while True:
                answer = asked.recv(65536)
                for kind, _, start, end in netlink.messages(answer):
                    if kind >> 8 != _GET_TABLE >> 8:  # the end of the list, or an error
                        return
                    yield _read_table(answer, start, end)
    except (OSError, struct.error):
        return


def _read_table(answer: bytes, start: int, end: int) -> tuple[int, str, int]:
    found = netlink.attributes(answer, start + netlink.FAMILY_HEAD, end)
    name = answer[slice(*found[_NAME])] if _NAME in found else b""
    flags = answer[slice(*found[_FLAGS])] if _FLAGS in found else b""
    return answer[start], name.rstrip(b"\0").decode("utf-8", "replace"), int.from_bytes(flags, "big")
