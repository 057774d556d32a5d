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
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

from balancer.domain.observation import ACCEPT, DROP, REJECT, InputPath
from balancer.domain.types import Family, Protocol
from balancer.kernel.base import Flavour
from balancer.kernel.input_walk import EVERYTHING, RULES_KEPT, Impossible, Packets, ReadRule, Walk
from balancer.ruleset.parse import Snapshot

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
    walk = Walk(table.chains, lambda chain, text: (_read_rule(chain, text),))
    walk.follow("INPUT", EVERYTHING)
    return InputPath(
        flavour=flavour.value,
        family=family,
        policy=table.policies.get("INPUT", ACCEPT),
        rules=tuple(walk.found[:RULES_KEPT]),
        left_out=walk.left_out + max(0, len(walk.found) - RULES_KEPT),
    )


def _read_rule(chain: str, text: str) -> ReadRule:
    words = f"-A {chain} {text}"
    try:
        packets, target, is_goto = _read(text)
    except Impossible:
        return ReadRule(words, ())
    if target in _VERDICTS:
        return ReadRule(words, (packets,), verdict=target)
    if target == "RETURN":
        return ReadRule(words, (packets,), returns=True)
    return ReadRule(words, (packets,), leads=target, is_goto=is_goto)


def _read(text: str) -> tuple[Packets, str, bool]:
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
