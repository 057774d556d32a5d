"""What INPUT would do with a client's packet to a published port, had it not been redirected before.

Redirected packets never meet INPUT: they go through FORWARD. Rules there that used to protect a port protect
it no longer once a service has it, so a reviewer wants to see them.

Followed are INPUT and the chains it leads to, as ufw, firewalld's iptables backend and fail2ban build them.
Understood are -p, -s, -d, -i, destination ports and multiport; a match that is not understood (sets, limits,
owners, negations) is taken to match some packets: the rule stays, with `exact` false. Left out are rules that
a client's first packet cannot meet (`--ctstate ESTABLISHED`, flags other than SYN, broadcasts, loopback,
protocols that no service has), rules behind one that decides everything, and our own chains.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from balancer.domain.observation import ACCEPT, DROP, REJECT, InputPath, InputRule, interface_matches
from balancer.domain.types import Family, Network, Protocol
from balancer.kernel.base import Flavour
from balancer.ruleset.ir import OWN_PREFIX
from balancer.ruleset.parse import Snapshot

RULES_KEPT = 500
"""A ban list may have a hundred thousand; nobody reads more, and the row stays small."""
RULES_READ = 20_000
"""Chains that are reached on many ways are read once for each; this bounds it."""
DEPTH_MAX = 32

_ARGUMENTS = {
    **dict.fromkeys(("-p", "-i", "-s", "-d", "-m", "-j", "-g", "--comment", "--dport", "--dports"), 1),
    **dict.fromkeys(("--ctstate", "--state", "--dst-type", "--pkt-type"), 1),
    "--tcp-flags": 2,
}
_VERDICTS = {ACCEPT, DROP, REJECT}
_LOOPBACK = "lo"


def find_input_path(snapshot: Snapshot, *, flavour: Flavour, family: Family = Family.IPV4) -> InputPath:
    """What `snapshot` of one flavour would do. Never raises."""
    table = snapshot.table("filter")
    walk = _Walk(table.chains)
    walk.follow("INPUT", _EVERYTHING, path=())
    return InputPath(
        flavour=flavour.value,
        family=family,
        policy=table.policies.get("INPUT", ACCEPT),
        rules=tuple(walk.found[:RULES_KEPT]),
        left_out=walk.left_out + max(0, len(walk.found) - RULES_KEPT),
    )


class _Impossible(Exception):
    """No client's first packet to a service is like that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packets:
    """A set of packets, None for any."""

    protocol: Protocol | None = None
    ports: tuple[tuple[int, int], ...] | None = None
    in_interface: str | None = None
    source: Network | None = None
    destination: Network | None = None
    unread: tuple[str, ...] = ()
    """What else it says, in words: then only some of them are meant."""

    @property
    def exact(self) -> bool:
        return not self.unread

    def meet(self, other: "_Packets") -> "_Packets":
        """Those that are in both. Raises _Impossible where there are none."""
        return _Packets(
            protocol=_same(self.protocol, other.protocol),
            ports=_common_ports(self.ports, other.ports),
            in_interface=_common_interface(self.in_interface, other.in_interface),
            source=_common_network(self.source, other.source),
            destination=_common_network(self.destination, other.destination),
            unread=tuple(dict.fromkeys((*self.unread, *other.unread))),
        )


_EVERYTHING = _Packets()


@dataclass(slots=True)
class _Walk:
    chains: Mapping[str, tuple[str, ...]]
    found: list[InputRule] = field(default_factory=list)
    left_out: int = 0
    read: int = 0

    def follow(self, chain: str, packets: _Packets, *, path: tuple[str, ...]) -> bool:
        """Collects what the chain does to `packets`; whether it decides about every one of them."""
        left: list[_Packets] = []
        for text in self.chains.get(chain, ()):
            self.read += 1
            if self.read > RULES_READ:
                self.left_out += 1
                continue
            try:
                own, target, is_goto = _read(text)
                both = _without(packets.meet(own), left)
            except _Impossible:
                continue
            ended = self._apply(f"-A {chain} {text}", both, chain=chain, target=target, path=path)
            if own == _EVERYTHING and (ended or is_goto or target == "RETURN"):
                return ended
            if target == "RETURN" or is_goto:
                left.append(both)
        return False

    def _apply(self, text: str, packets: _Packets, *, chain: str, target: str, path: tuple[str, ...]) -> bool:
        if target in _VERDICTS:
            self.found.append(_rule(text, packets, chain=chain, verdict=target))
            return True
        if target not in self.chains or target.startswith(OWN_PREFIX) or len(path) >= DEPTH_MAX:
            return False
        return self.follow(target, packets, path=(*path, chain))


def _rule(text: str, packets: _Packets, *, chain: str, verdict: str) -> InputRule:
    return InputRule(
        text=text,
        chain=chain,
        verdict=verdict,
        protocol=packets.protocol,
        ports=packets.ports,
        in_interface=packets.in_interface,
        source=packets.source,
        destination=packets.destination,
        exact=packets.exact,
        unread=packets.unread,
    )


def _read(text: str) -> tuple[_Packets, str, bool]:
    """The packets that one rule is about, its target (empty for none), and whether it is a goto."""
    packets = _EVERYTHING
    for option, values, negated in _options(text):
        if option in {"-j", "-g"}:
            return packets, values[0], option == "-g"
        packets = packets.meet(_packets_of(option, values, negated=negated))
    return packets, "", False


def _options(text: str) -> Iterator[tuple[str, list[str], bool]]:
    """(option, its arguments, whether a `!` is before it), up to the target; what follows belongs to that.

    The words behind an option that is not known are passed over one by one.
    """
    words = _words(text)
    index, negated = 0, False
    while index < len(words):
        word = words[index]
        index += 1
        if word.startswith("-"):
            count = _ARGUMENTS.get(word, 0)
            yield word, [*words[index : index + count], "", ""][: max(count, 1)], negated
            index += count
            if word in {"-j", "-g"}:
                return
        negated = word == "!"


def _words(text: str) -> list[str]:
    if '"' not in text:
        return text.split()  # a hundred times as fast as shlex
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _packets_of(option: str, values: list[str], *, negated: bool) -> _Packets:
    if option in {"-m", "--comment"}:
        return _EVERYTHING
    if option in _FIRST_PACKET:
        if _FIRST_PACKET[option](values) is negated:
            raise _Impossible
        return _EVERYTHING
    if option not in _UNDERSTOOD or negated:
        return replace(_EVERYTHING, unread=(_in_words(option, negated=negated),))
    try:
        return _UNDERSTOOD[option](values[0])
    except ValueError:
        return replace(_EVERYTHING, unread=(_in_words(option, negated=negated),))


def _in_words(option: str, *, negated: bool) -> str:
    """What an option that is not understood asks for."""
    if negated:
        return f"a negation (! {option})"
    words = next((words for prefix, words in _WORDS.items() if option.startswith(prefix)), "")
    return words or f"the condition {option}"


_WORDS = {
    "--limit": "a rate limit",
    "--hashlimit": "a rate limit for each source",
    "--connlimit": "a number of connections",
    "--match-set": "a set of addresses (ipset)",
    "--sport": "the client's port",
    "--source-ports": "the client's port",
    "--src-range": "a range of addresses",
    "--mac-source": "a hardware address",
    "--mark": "a mark of packets",
    "--string": "a text in packets",
    "--seconds": "how often a client came before",
    "--rcheck": "how often a client came before",
    "--update": "how often a client came before",
    "--set": "how often a client came before",
    "--hitcount": "how often a client came before",
    "--time": "a time of day",
    "--date": "a date",
    "--weekdays": "days of the week",
}
"""By how the option begins."""


def _without(packets: _Packets, left: list[_Packets]) -> _Packets:
    """The packets as a rule of a chain meets them, after some of them may have left the chain."""
    for gone in left:
        try:
            packets.meet(gone)
        except _Impossible:
            continue
        return replace(packets, unread=(*packets.unread, "an exception before it (RETURN or a goto)"))
    return packets


def _of_protocol(value: str) -> _Packets:
    if value not in set(Protocol):
        raise _Impossible
    return _Packets(protocol=Protocol(value))


def _of_interface(value: str) -> _Packets:
    if value == _LOOPBACK:
        raise _Impossible
    return _Packets(in_interface=value)


def _of_ports(value: str) -> _Packets:
    spans = (span.partition(":") for span in value.split(","))
    return _Packets(ports=tuple((int(first), int(last or first)) for first, _, last in spans))


_UNDERSTOOD = {
    "-p": _of_protocol,
    "-i": _of_interface,
    "-s": lambda value: _Packets(source=ip_network(value)),
    "-d": lambda value: _Packets(destination=ip_network(value)),
    "--dport": _of_ports,
    "--dports": _of_ports,
}
_FIRST_PACKET = {
    # Whether a client's first packet to a service is like this.
    "--ctstate": lambda values: "NEW" in values[0].split(","),
    "--state": lambda values: "NEW" in values[0].split(","),
    "--dst-type": lambda values: bool({"LOCAL", "UNICAST"} & set(values[0].split(","))),
    "--pkt-type": lambda values: values[0] in {"unicast", "host"},
    "--tcp-flags": lambda values: _is_syn(mask=values[0], flags=values[1]),
}


def _is_syn(*, mask: str, flags: str) -> bool:
    looked_at = set(mask.split(",")) - {"NONE"}
    if "ALL" in looked_at:
        looked_at = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"}
    wanted = looked_at if flags == "ALL" else set(flags.split(",")) - {"NONE"}
    return {"SYN"} & looked_at == wanted


def _same(one: Protocol | None, other: Protocol | None) -> Protocol | None:
    if one is not None and other is not None and one is not other:
        raise _Impossible
    return other if one is None else one


def _common_ports(
    one: tuple[tuple[int, int], ...] | None, other: tuple[tuple[int, int], ...] | None
) -> tuple[tuple[int, int], ...] | None:
    if one is None or other is None:
        return other if one is None else one
    both = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    found = tuple(sorted({(first, last) for first, last in both if first <= last}))
    if not found:
        raise _Impossible
    return found


def _common_interface(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return other if one is None else one
    narrow, wide = sorted((one, other), key=lambda name: (name.endswith("+"), -len(name)))
    if not interface_matches(wide, narrow.removesuffix("+")):
        raise _Impossible
    return narrow


def _common_network(one: Network | None, other: Network | None) -> Network | None:
    if one is None or other is None:
        return other if one is None else one
    if one.version != other.version or not one.overlaps(other):
        raise _Impossible
    return max(one, other, key=lambda network: network.prefixlen)
