"""What native nftables chains at the hook input would do with a client's first packet to a published port.

The same as `input_rules` says of iptables, in the same values: addresses and networks of the client or the
machine, ports, protocols, interfaces, and sets of those, named and not, are understood. What is not (rates,
marks, negations, several things at once) stays as a rule that says what it asks for besides.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network, summarize_address_range
from itertools import product
from typing import Any

from balancer.domain.observation import ACCEPT, DROP, NATIVE, REJECT, InputPath
from balancer.domain.types import Family, Network, Protocol
from balancer.kernel.input_matches import EVERYTHING, Impossible, Packets
from balancer.kernel.input_walk import RULES_KEPT, ReadRule, Walk
from balancer.kernel.native_listing import BaseChain, Native, NativeRule, NativeTable
from balancer.kernel.native_match import Elements, Met, meets, members_of
from balancer.kernel.native_match import Packets as Alike

_VERDICTS = {"accept": ACCEPT, "drop": DROP, "reject": REJECT}
_HARMLESS = {"counter", "log", "mangle", "flow", "ct helper", "ct timeout", "last", "comment", "notrack"}
_WORDS = {
    "limit": "a rate limit",
    "ct count": "a number of connections",
    "quota": "an amount of data",
    "meter": "a rate limit for each source",
    "set": "how often a client came before",
    "xt": "a match of iptables",
    "queue": "what another program decides (queue)",
    "meta mark": "a mark of packets",
    "ct mark": "a mark of connections",
    "meta time": "a time of day",
    "meta hour": "a time of day",
    "meta day": "days of the week",
    "payload sport": "the client's port",
    "payload flags": "flags of TCP",
    "concat": "several things at once",
    "ether": "a hardware address",
}
"""Kind of a statement, or what it looks at -> what it asks for."""
_ALTERNATIVES_MAX = 1_000
"""Of one rule: addresses times interfaces."""

Ways = tuple[Packets, ...]
"""Any of these."""


def find_native_paths(native: Native) -> tuple[InputPath, ...]:
    """One for each base chain at the hook input and family. Never raises."""
    found = []
    for table in native.tables:
        for base in table.bases:
            if base.hook == "input" and base.kind == "filter":
                found += [_path(table, base, family) for family in _families(base)]
    unknown = product(Family, native.not_read)
    return (*found, *(InputPath(flavour=NATIVE, family=family, not_read=words) for family, words in unknown))


def _families(base: BaseChain) -> tuple[Family, ...]:
    return {"ip": (Family.IPV4,), "ip6": (Family.IPV6,)}.get(base.family, tuple(Family))


def _path(table: NativeTable, base: BaseChain, family: Family) -> InputPath:
    read: Callable[[str, NativeRule], Iterable[ReadRule]] = partial(_read_rule, table, family)
    walk = Walk(table.rules, read)
    walk.follow(base.name, EVERYTHING)
    return InputPath(
        flavour=NATIVE,
        chain=base.place,
        family=family,
        policy=_VERDICTS.get(base.policy, ACCEPT),
        rules=tuple(walk.found[:RULES_KEPT]),
        left_out=walk.left_out + max(0, len(walk.found) - RULES_KEPT),
    )


def _read_rule(table: NativeTable, family: Family, chain: str, rule: NativeRule) -> Iterator[ReadRule]:
    """One for each verdict that the rule has."""
    text = f"nft {table.family} {table.name} {chain}: {rule.text}"
    ways: Ways = (EVERYTHING,)
    for statement in rule.statements:
        kind, value = next(iter(statement.items()), ("", None))
        if kind == "match":
            ways = _meet(ways, _ways_of(value, family, table.elements))
            if not ways:
                return
        elif kind == "vmap":
            yield from _of_map(value, family, table.elements, text=text, ways=ways)
            return
        elif kind in _HARMLESS:
            continue
        elif kind == "queue":
            yield ReadRule(text, _unread(ways, _WORDS[kind]), verdict=DROP)
            return
        elif (found := _read_verdict(kind, value, text, ways)) is not None:
            yield found
            return
        else:
            ways = _unread(ways, _WORDS.get(kind, f"the condition {kind}"))


def _read_verdict(kind: str, value: Any, text: str, ways: Ways) -> ReadRule | None:
    if kind in _VERDICTS:
        return ReadRule(text, ways, verdict=_VERDICTS[kind])
    if kind in {"jump", "goto"}:
        leads = str(value.get("target")) if isinstance(value, dict) else ""
        return ReadRule(text, ways, leads=leads, is_goto=kind == "goto")
    return ReadRule(text, ways, returns=True) if kind == "return" else None


def _of_map(value: Any, family: Family, elements: Elements, *, text: str, ways: Ways) -> Iterator[ReadRule]:
    """Of a verdict map: one for each of its elements."""
    data = value.get("data")
    name = data if isinstance(data, str) else ""
    pairs = elements.get(name.removeprefix("@")) if name else data.get("set", ())
    if pairs is None:
        words = f"a map that was not read ({name})"
        yield ReadRule(text, _unread(ways, words), verdict=DROP)
        return
    for pair in pairs:
        key, verdict = pair
        match = {"op": "==", "left": value.get("key"), "right": key}
        both = _meet(ways, _ways_of(match, family, elements))
        kind, about = next(iter(verdict.items())) if isinstance(verdict, dict) else (str(verdict), None)
        found = _read_verdict(kind, about, text, both)
        if both and found is not None:
            yield found


def _meet(one: Ways, other: Ways) -> Ways:
    if len(one) * len(other) > _ALTERNATIVES_MAX:
        return _unread(one, f"more than {_ALTERNATIVES_MAX:,} pairs of addresses and interfaces")
    found = []
    for first, second in product(one, other):
        try:
            found.append(first.meet(second))
        except Impossible:
            continue
    return tuple(found)


def _unread(ways: Ways, words: str) -> Ways:
    return tuple(replace(one, unread=tuple(dict.fromkeys((*one.unread, words)))) for one in ways)


def _ways_of(match: Mapping[str, Any], family: Family, elements: Elements) -> Ways:
    """What one condition leaves of a client's first packets to a service."""
    first = Alike(words="", family=family, translated=False, protocols=frozenset(Protocol))
    met = meets(first, match, elements=elements)
    if met is not Met.PERHAPS:
        return (EVERYTHING,) if met is Met.ALWAYS else ()
    left, right = match.get("left"), match.get("right")
    kind, about = next(iter(left.items())) if isinstance(left, dict) and left else ("", {})
    named = _name(kind, about)
    understood = kind != "&" and named in _UNDERSTOOD
    if isinstance(right, str) and right.startswith("@"):
        known = elements.get(right[1:])
        if known is None:
            return _unread((EVERYTHING,), f"a set that was not read, or is too large ({right})")
        right = {"set": list(known)}
    negated = match.get("op", "==") == "!="
    if negated and named in {"meta iif", "meta iifname"} and right == "lo":
        return (EVERYTHING,)
    if negated or not understood or match.get("op", "==") not in {"==", "in"}:
        words = "a negation" if negated else "a comparison" if understood else _in_words(named)
        return _unread((EVERYTHING,), f"{words} ({named.partition(' ')[2] or named})" if negated else words)
    try:
        return tuple(_UNDERSTOOD[named](about, list(members_of(right))))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return _unread((EVERYTHING,), _in_words(named))


def _name(kind: str, about: Any) -> str:
    """`payload saddr`, `meta iifname`, `ct mark`, `fib type`."""
    if kind == "&":
        inner = about[0] if isinstance(about, list) and about else {}
        return _name(*next(iter(inner.items()))) if isinstance(inner, dict) and inner else kind
    if not isinstance(about, dict):
        return kind
    if about.get("protocol") == "ether":
        return "ether"
    named = about.get("field") or about.get("key") or about.get("result")
    return f"{kind} {named}" if named else kind


def _in_words(named: str) -> str:
    return _WORDS.get(named, f"the condition {named}")


def _sources(about: Any, members: list[Any]) -> Iterator[Packets]:
    return (Packets(source=network) for one in members for network in _networks(one))


def _destinations(about: Any, members: list[Any]) -> Iterator[Packets]:
    """Packets to loopback addresses come from the machine itself."""
    networks = (network for one in members for network in _networks(one))
    return (Packets(destination=network) for network in networks if not network.is_loopback)


def _networks(one: Any) -> Iterator[Network]:
    if isinstance(one, dict) and "prefix" in one:
        yield ip_network(f"{one['prefix']['addr']}/{one['prefix']['len']}", strict=False)
    elif isinstance(one, dict):
        first, last = (ip_address(text) for text in one["range"])
        yield from summarize_address_range(first, last)  # type: ignore[type-var]
    else:
        yield ip_network(one)


def _ports(about: Any, members: list[Any]) -> Iterator[Packets]:
    spans = [(one["range"] if isinstance(one, dict) else (one, one)) for one in members]
    ports = tuple(sorted((int(first), int(last)) for first, last in spans))
    protocol = None if about["protocol"] == "th" else Protocol(about["protocol"])
    yield Packets(protocol=protocol, ports=ports)


def _interfaces(about: Any, members: list[Any]) -> Iterator[Packets]:
    for one in members:
        if one != "lo":
            yield Packets(in_interface=f"{one[:-1]}+" if one.endswith("*") else one)


def _protocols(about: Any, members: list[Any]) -> Iterator[Packets]:
    numbers = {6: Protocol.TCP, 17: Protocol.UDP, 132: Protocol.SCTP}
    found = [numbers.get(one) or (Protocol(one) if one in set(Protocol) else None) for one in members]
    return (Packets(protocol=one) for one in found if one is not None)


def _kinds_of_address(about: Any, members: list[Any]) -> Iterator[Packets]:
    """`fib daddr type`; of the client's address nobody knows."""
    if "daddr" not in about["flags"]:
        raise ValueError
    return (EVERYTHING for one in ("local", "unicast") if one in members)


def _kinds_of_packet(about: Any, members: list[Any]) -> Iterator[Packets]:
    return (EVERYTHING for one in ("host", "unicast") if one in members)


_UNDERSTOOD: Mapping[str, Callable[[Any, list[Any]], Iterable[Packets]]] = {
    "payload saddr": _sources,
    "payload daddr": _destinations,
    "payload dport": _ports,
    "payload protocol": _protocols,
    "payload nexthdr": _protocols,
    "meta l4proto": _protocols,
    "meta iif": _interfaces,
    "meta iifname": _interfaces,
    "meta pkttype": _kinds_of_packet,
    "fib type": _kinds_of_address,
}
