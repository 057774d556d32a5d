"""Whether packets that are alike meet a condition of a native nftables rule: never, perhaps or always. Pure.

What is not understood is met perhaps. The forms are those of libnftables-json(5).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address, ip_network
from typing import Any

from balancer.domain.types import Family
from balancer.ruleset import marks


class Met(IntEnum):
    NEVER = 0
    PERHAPS = 1
    ALWAYS = 2

    @property
    def inverted(self) -> "Met":
        return Met(2 - self)


Ports = tuple[int, int]
Elements = Mapping[str, tuple[Any, ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """Packets that are alike as far as rules are concerned. None where it could be anything."""

    words: str
    """Completes "may drop …": `new connections to 10.0.0.3 on eth1`."""
    family: Family
    state: str = "new"
    """Of the connection: new or established."""
    reply: bool = False
    translated: bool = True
    """We have chosen a backend already: the connection's destination is translated, and our mark is set."""
    protocols: frozenset[str] = frozenset({"tcp", "udp"})
    in_interfaces: frozenset[str] | None = None
    out_interfaces: frozenset[str] | None = None
    sources: tuple[int, ...] | None = None
    """Addresses of the family as numbers, sorted."""
    destinations: tuple[int, ...] | None = None
    source_ports: frozenset[Ports] | None = None
    destination_ports: frozenset[Ports] | None = None


_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_KNOWN_BITS = marks.BALANCED | marks.REFUSE
_TESTS: Mapping[str, Callable[[Met], Met]] = {
    "==": lambda met: met,
    "in": lambda met: met,
    "!=": lambda met: met.inverted,
}


def meets(packets: Packets, match: Mapping[str, Any], *, elements: Elements) -> Met:
    """Of one `match` statement."""
    test = _TESTS.get(str(match.get("op", "==")))
    if test is None:
        return Met.PERHAPS
    return compare(packets, match.get("left"), match.get("right"), elements=elements, test=test)


def compare(
    packets: Packets,
    left: Any,
    right: Any,
    *,
    elements: Elements,
    test: Callable[[Met], Met] = _TESTS["=="],
) -> Met:
    """Whether what `left` looks at is `right`: a value, a set, a range, the name of a set."""
    try:
        return _compare(packets, left, _named(right, elements), test)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return Met.PERHAPS


def _compare(packets: Packets, left: Any, right: Any, test: Callable[[Met], Met]) -> Met:
    kind, about = next(iter(left.items()))
    if kind == "payload":
        bound = _carries(packets, str(about.get("protocol")))
        return min(bound, test(_of_payload(packets, about, right)))
    if kind == "meta":
        return test(_of_meta(packets, str(about["key"]), right))
    if kind == "ct" and "dir" not in about:
        return test(_of_connection(packets, str(about["key"]), right))
    if kind == "&":
        inner, mask = about
        if inner == {"ct": {"key": "mark"}}:
            return test(_mark(int(mask), int(right)))
        if inner == {"ct": {"key": "status"}} and mask == "dnat":
            return test(_flag(packets.translated, right))
    return Met.PERHAPS


def _named(right: Any, elements: Elements) -> Any:
    """The elements of a named set in its place, where they are known."""
    if isinstance(right, str) and right.startswith("@"):
        found = elements.get(right[1:])
        return None if found is None else {"set": list(found)}
    return right


def _carries(packets: Packets, protocol: str) -> Met:
    """Whether they have a header of the protocol: nft leaves it out, and asks for it all the same."""
    if protocol in {"ip", "ip6"}:
        return Met.ALWAYS if (protocol == "ip") == (packets.family is Family.IPV4) else Met.NEVER
    if protocol == "th":
        return Met.ALWAYS
    return _over(packets.protocols, lambda one: one == protocol)


def _of_payload(packets: Packets, about: Mapping[str, Any], right: Any) -> Met:
    named = str(about.get("field"))
    if named in {"protocol", "nexthdr"}:
        return _of_values(packets.protocols, right, _is_protocol)
    if named in {"saddr", "daddr"}:
        return _of_addresses(packets.sources if named == "saddr" else packets.destinations, right)
    if named in {"sport", "dport"}:
        return _of_values(
            packets.source_ports if named == "sport" else packets.destination_ports, right, _is_port
        )
    return Met.PERHAPS


def _of_meta(packets: Packets, key: str, right: Any) -> Met:
    if key in {"iif", "iifname"}:
        return _of_values(packets.in_interfaces, right, _is_interface)
    if key in {"oif", "oifname"}:
        return _of_values(packets.out_interfaces, right, _is_interface)
    if key == "l4proto":
        return _of_values(packets.protocols, right, _is_protocol)
    if key == "nfproto":
        return _of_values({packets.family.value}, right, lambda value, one: _exactly(value == one))
    return Met.PERHAPS


def _of_connection(packets: Packets, key: str, right: Any) -> Met:
    if key == "state":
        return _of_values({packets.state}, right, lambda value, one: _exactly(value == one))
    if key == "direction":
        way = "reply" if packets.reply else "original"
        return _of_values({way}, right, lambda value, one: _exactly(value == one))
    if key == "status":
        return _flag(packets.translated, right)
    if key == "mark":
        return _mark(0xFFFFFFFF, int(right)) if packets.translated else Met.PERHAPS
    return Met.PERHAPS


def _flag(translated: bool, right: Any) -> Met:
    """`ct status dnat`, or any flag of several."""
    flags = set(members_of(right))
    if "dnat" in flags:
        return Met.ALWAYS if translated else _exactly_or_perhaps(flags == {"dnat"})
    return Met.PERHAPS


def _exactly_or_perhaps(never: bool) -> Met:
    return Met.NEVER if never else Met.PERHAPS


def _mark(mask: int, wanted: int) -> Met:
    """Of our connection mark only some bits are known beforehand."""
    if wanted & _KNOWN_BITS & mask != marks.BALANCED & mask:
        return Met.NEVER
    return Met.ALWAYS if mask & ~_KNOWN_BITS == 0 else Met.PERHAPS


def overwrites(mangle: Any) -> bool:
    """Whether a `mangle` statement changes bits of our connection mark."""
    mark = {"ct": {"key": "mark"}}
    if not isinstance(mangle, dict) or mangle.get("key") != mark:
        return False
    match mangle.get("value"):
        case {"|": [kept, int(added)]} if kept == mark:
            changed = added
        case {"&": [kept, int(spared)]} if kept == mark:
            changed = ~spared
        case {"|": [{"&": [kept, int(spared)]}, int(added)]} if kept == mark:
            changed = ~spared | added
        case _:
            changed = marks.MASK
    return bool(changed & marks.MASK)


def _of_values(values: Iterable[Any] | None, right: Any, compare_one: Callable[[Any, Any], Met]) -> Met:
    """Of all values that the packets may have, with what a condition allows."""
    if values is None or right is None:
        return Met.PERHAPS
    members = list(members_of(right))
    found = [max((compare_one(value, one) for one in members), default=Met.NEVER) for value in values]
    if not found or min(found) != max(found):
        return Met.NEVER if not found else Met.PERHAPS
    return found[0]


def _over(values: Iterable[Any], test: Callable[[Any], bool]) -> Met:
    found = {test(value) for value in values}
    if len(found) != 1:
        return Met.PERHAPS
    return _exactly(found.pop())


def members_of(right: Any) -> Iterable[Any]:
    """What a condition allows, one by one."""
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    for one in right if isinstance(right, list) else [right]:
        yield one["elem"]["val"] if isinstance(one, dict) and "elem" in one else one


def _exactly(same: bool) -> Met:
    return Met.ALWAYS if same else Met.NEVER


def _of_addresses(values: tuple[int, ...] | None, right: Any) -> Met:
    """Counted and not compared one by one: there may be thousands on both sides. Members do not overlap."""
    if values is None or right is None:
        return Met.PERHAPS
    spans = [_span(one) for one in members_of(right)]
    inside = sum(bisect_right(values, last) - bisect_left(values, first) for first, last in spans)
    return Met.NEVER if inside == 0 else Met.ALWAYS if inside >= len(values) else Met.PERHAPS


def _span(one: Any) -> tuple[int, int]:
    if isinstance(one, dict) and "prefix" in one:
        network = ip_network(f"{one['prefix']['addr']}/{one['prefix']['len']}", strict=False)
        return int(network.network_address), int(network.broadcast_address)
    if isinstance(one, dict):
        first, last = one["range"]
        return int(ip_address(first)), int(ip_address(last))
    return int(ip_address(one)), int(ip_address(one))


def _is_port(value: Ports, one: Any) -> Met:
    first, last = one["range"] if isinstance(one, dict) else (int(one), int(one))
    if first <= value[0] and value[1] <= last:
        return Met.ALWAYS
    return Met.NEVER if value[1] < first or last < value[0] else Met.PERHAPS


def _is_interface(value: str, one: Any) -> Met:
    if not isinstance(one, str):
        return Met.PERHAPS
    return _exactly(value.startswith(one[:-1]) if one.endswith("*") else value == one)


def _is_protocol(value: str, one: Any) -> Met:
    return _exactly(value == _PROTOCOLS.get(one, one))
