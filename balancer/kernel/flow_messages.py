"""What ctnetlink says of a connection (linux/netfilter/nfnetlink_conntrack.h), as flows are counted. Pure."""

import socket
from functools import lru_cache
from struct import Struct

from balancer.kernel.flow_counts import Carried, Flow
from balancer.kernel.netlink import FAMILY_HEAD, attributes
from balancer.ruleset.compile import MARK_BALANCED

_ORIGINAL, _REPLY, _MARK, _SENT, _ANSWERED = 1, 2, 8, 9, 10
_ADDRESSES, _PORTS = 1, 2
_SOURCE, _DESTINATION = 1, 2
"""Of IPv4; those of IPv6 are two more."""
_PROTOCOL, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PACKETS, _BYTES = 1, 2
_NAMES = {6: "tcp", 17: "udp", 132: "sctp"}
_WORD, _NUMBER, _PORT = Struct("!I"), Struct("!Q"), Struct("!H")

Span = tuple[int, int]


def read_ended(data: bytes, start: int, end: int) -> tuple[Flow, Carried] | None:
    """A connection that has ended; None of what was not balanced, or is not accounted."""
    found = attributes(data, start + FAMILY_HEAD, end)
    if not {_ORIGINAL, _REPLY, _MARK, _SENT, _ANSWERED} <= found.keys():
        return None
    if not _WORD.unpack_from(data, found[_MARK][0])[0] & MARK_BALANCED:
        return None
    original, reply = _tuple_of(data, found[_ORIGINAL]), _tuple_of(data, found[_REPLY])
    if original is None or reply is None:
        return None
    protocol, _, _, address, port = original
    _, answers, back, _, _ = reply
    if (address, port) == (answers, back):
        return None
    sent, answered = _counts_of(data, found[_SENT]), _counts_of(data, found[_ANSWERED])
    carried = Carried(packets=sent[0] + answered[0], bytes=sent[1] + answered[1])
    return (protocol, address, port, answers, back), carried


def _tuple_of(data: bytes, span: Span) -> tuple[str, str, str, str, str] | None:
    """Protocol, source and its port, destination and its port."""
    parts = attributes(data, *span)
    ends, ports = attributes(data, *parts[_ADDRESSES]), attributes(data, *parts[_PORTS])
    protocol = _NAMES.get(data[ports[_PROTOCOL][0]])
    if protocol is None:
        return None
    more = 0 if _SOURCE in ends else 2
    source, destination = (data[slice(*ends[kind + more])] for kind in (_SOURCE, _DESTINATION))
    return (
        protocol,
        _address(source),
        str(_PORT.unpack_from(data, ports[_SOURCE_PORT][0])[0]),
        _address(destination),
        str(_PORT.unpack_from(data, ports[_DESTINATION_PORT][0])[0]),
    )


def _counts_of(data: bytes, span: Span) -> tuple[int, int]:
    """Packets and bytes."""
    found = attributes(data, *span)
    packets, size = (_NUMBER.unpack_from(data, found[kind][0])[0] for kind in (_PACKETS, _BYTES))
    return packets, size


@lru_cache(maxsize=1 << 14)
def _address(packed: bytes) -> str:
    """As conntrack(8) spells it."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
