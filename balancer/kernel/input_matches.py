"""Which packets a rule of others is about, for `input_rules`.

Understood are -p, -s, -d, -i, destination ports and multiport; a match that is not understood (sets, limits,
owners, negations) is taken to match some packets: the rule stays, with `exact` false. `Impossible` are rules
that a client's first packet cannot meet (`--ctstate ESTABLISHED`, flags other than SYN, broadcasts, loopback,
protocols that no service has).
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network

from balancer.domain.observation import interface_matches
from balancer.domain.types import Network, Protocol

_ARGUMENTS = {
    **dict.fromkeys(("-p", "-i", "-s", "-d", "-m", "-j", "-g", "--comment", "--dport", "--dports"), 1),
    **dict.fromkeys(("--ctstate", "--state", "--dst-type", "--pkt-type"), 1),
    "--tcp-flags": 2,
}
_LOOPBACK = "lo"


class Impossible(Exception):
    """No client's first packet to a service is like that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
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

    def meet(self, other: "Packets") -> "Packets":
        """Those that are in both. Raises Impossible where there are none."""
        return Packets(
            protocol=_same(self.protocol, other.protocol),
            ports=_common_ports(self.ports, other.ports),
            in_interface=_common_interface(self.in_interface, other.in_interface),
            source=_common_network(self.source, other.source),
            destination=_common_network(self.destination, other.destination),
            unread=tuple(dict.fromkeys((*self.unread, *other.unread))),
        )


EVERYTHING = Packets()


def read_rule(text: str) -> tuple[Packets, str, bool]:
    """The packets that one rule is about, its target (empty for none), and whether it is a goto."""
    packets = EVERYTHING
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


def _packets_of(option: str, values: list[str], *, negated: bool) -> Packets:
    if option in {"-m", "--comment"}:
        return EVERYTHING
    if option in _FIRST_PACKET:
        if _FIRST_PACKET[option](values) is negated:
            raise Impossible
        return EVERYTHING
    if option not in _UNDERSTOOD or negated:
        return replace(EVERYTHING, unread=(_in_words(option, negated=negated),))
    try:
        return _UNDERSTOOD[option](values[0])
    except ValueError:
        return replace(EVERYTHING, unread=(_in_words(option, negated=negated),))


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


def _of_protocol(value: str) -> Packets:
    if value not in set(Protocol):
        raise Impossible
    return Packets(protocol=Protocol(value))


def _of_interface(value: str) -> Packets:
    if value == _LOOPBACK:
        raise Impossible
    return Packets(in_interface=value)


def _of_ports(value: str) -> Packets:
    spans = (span.partition(":") for span in value.split(","))
    return Packets(ports=tuple((int(first), int(last or first)) for first, _, last in spans))


_UNDERSTOOD = {
    "-p": _of_protocol,
    "-i": _of_interface,
    "-s": lambda value: Packets(source=ip_network(value)),
    "-d": lambda value: Packets(destination=ip_network(value)),
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
        raise Impossible
    return other if one is None else one


def _common_ports(
    one: tuple[tuple[int, int], ...] | None, other: tuple[tuple[int, int], ...] | None
) -> tuple[tuple[int, int], ...] | None:
    if one is None or other is None:
        return other if one is None else one
    both = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    found = tuple(sorted({(first, last) for first, last in both if first <= last}))
    if not found:
        raise Impossible
    return found


def _common_interface(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return other if one is None else one
    narrow, wide = sorted((one, other), key=lambda name: (name.endswith("+"), -len(name)))
    if not interface_matches(wide, narrow.removesuffix("+")):
        raise Impossible
    return narrow


def _common_network(one: Network | None, other: Network | None) -> Network | None:
    if one is None or other is None:
        return other if one is None else one
    if one.version != other.version or not one.overlaps(other):
        raise Impossible
    return max(one, other, key=lambda network: network.prefixlen)
