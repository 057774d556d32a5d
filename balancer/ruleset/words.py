"""The words of one rule, read back into a value. What is not spelled as we would is an exception."""

import re
from fractions import Fraction
from ipaddress import ip_address, ip_network
from typing import Any

from balancer.domain.types import PortRange, Protocol
from balancer.ruleset.address_bpf import read_bytecode
from balancer.ruleset.hashing import SEEDS
from balancer.ruleset.ir import (
    HASH_FAN_OUT,
    KERNEL_PROBABILITY_UNITS,
    OWN_PREFIX,
    AtMost,
    Chance,
    Faster,
    Listed,
    MoreThan,
    Nth,
    Original,
    Rule,
    SourceHash,
    TcpFlags,
)
from balancer.ruleset.networks import family_of_list
from balancer.ruleset.render import HTABLE_MAX, NOT_SYN, TIMESTAMPS
from balancer.ruleset.targets import (
    SYN_PROXY_SCALE,
    Accept,
    Dnat,
    Drop,
    Goto,
    Jump,
    LimitSegments,
    Log,
    Mark,
    Masquerade,
    NoTrack,
    Reject,
    RejectWith,
    Remember,
    Return,
    SetConnMark,
    Snat,
    StripTimestamps,
    SynProxy,
    Target,
)

_DESTINATION = re.compile(r"(\[[0-9a-f:.]+\]|[0-9.]+):(\d+)(?:-(\d+)/(\d+))?")


def read_words(words: list[str]) -> Rule:
    """The rule whose words stand behind `-A <chain>`.

    Raises ValueError, IndexError, KeyError or TypeError. It says nothing of order: `parse_rule` asks whether
    the rule would be written so.
    """
    return _Reader(words).rule()


class _Reader:
    """From left to right. Any surprise is an exception."""

    def __init__(self, words: list[str]) -> None:
        self._words = list(reversed(words))

    def rule(self) -> Rule:
        found: dict[str, Any] = {}
        while self._words:
            word = self._words.pop()
            for key, value in self._options(word):
                if key in found:
                    raise ValueError(f"{key} twice")
                found[key] = value
        return Rule(**found)

    def _options(self, word: str) -> list[tuple[str, object]]:
        if word == "-m" and self._words[-1] in set(Protocol):
            self._words.pop()
            return self._protocol_match()
        return [self._option(word)]

    def _protocol_match(self) -> list[tuple[str, object]]:
        found: list[tuple[str, object]] = []
        if self._skip("--sport"):
            found.append(("source_ports", _ports(self._words.pop())))
        if self._skip("--dport"):
            found.append(("destination_ports", _ports(self._words.pop())))
        negated = self._skip("!")
        if self._skip("--tcp-flags"):
            flags = self._words.pop(), self._words.pop()
            is_not_syn = negated and flags == NOT_SYN
            found.append(("not_syn", True) if is_not_syn else ("tcp_flags", TcpFlags(*flags, negated)))
        elif negated:
            raise ValueError("not what?")
        return found

    def _option(self, word: str) -> tuple[str, object]:
        match word:
            case "-s":
                return "source", ip_network(self._words.pop())
            case "-d":
                return "destination", ip_network(self._words.pop())
            case "-i":
                return "in_interface", self._words.pop()
            case "-p":
                return "protocol", Protocol(self._words.pop())
            case "-m":
                return self._match(self._words.pop())
            case "-j":
                return "target", self._target(self._words.pop())
            case "-g":
                return "target", Goto(self._words.pop())
        raise ValueError(word)

    def _match(self, name: str) -> tuple[str, object]:
        match name:
            case "addrtype":
                return self._address_type(), True
            case "conntrack":
                return self._conntrack()
            case "connmark":
                return "connmark", _mark(self._value("--mark"))
            case "comment":
                return "comment", self._value("--comment")
            case "set":
                return self._set()
            case "hashlimit" | "connlimit" | "limit":
                return self._limit(name)
            case "bpf" | "cluster":
                return "source_hash", self._source_hash(ipv6=name == "bpf")
            case "statistic":
                return "statistic", self._statistic(self._value("--mode"))
        raise ValueError(name)

    def _address_type(self) -> str:
        if self._skip("!"):
            self._expect("--src-type")
            self._expect("LOCAL")
            return "source_elsewhere"
        self._expect("--dst-type")
        self._expect("LOCAL")
        return "destination_local"

    def _set(self) -> tuple[str, object]:
        outside = self._skip("!")
        name = self._value("--match-set")
        self._expect("src")
        is_list = outside or family_of_list(name) is not None
        return ("listed", Listed(name, outside)) if is_list else ("clients", name)

    def _conntrack(self) -> tuple[str, object]:
        if self._skip("--ctstate"):
            return "ct_state", self._words.pop()
        return "original", self._original()

    def _original(self) -> Original:
        destination = ports = None
        if self._skip("--ctorigdst"):
            destination = ip_network(self._words.pop())
        if self._skip("--ctorigdstport"):
            ports = _ports(self._words.pop())
        return Original(destination, ports)

    def _limit(self, name: str) -> tuple[str, object]:
        match name:
            case "hashlimit":
                return "faster", self._faster()
            case "connlimit":
                above, bits = int(self._value("--connlimit-above")), int(self._value("--connlimit-mask"))
                return "more_than", MoreThan(above, bits, self._words.pop() == "--connlimit-daddr")
        rate = _per_second(self._value("--limit"))
        return "at_most", AtMost(rate, int(self._value("--limit-burst")))

    def _faster(self) -> Faster:
        rate = _per_second(self._value("--hashlimit-above"))
        burst = int(self._value("--hashlimit-burst"))
        for word in ("--hashlimit-mode", "srcip"):
            self._expect(word)
        name = self._value("--hashlimit-name")
        for word in ("--hashlimit-htable-max", str(HTABLE_MAX)):
            self._expect(word)
        expire = int(self._value("--hashlimit-htable-expire"))
        bits = int(self._words.pop()) if self._skip("--hashlimit-srcmask") else 32
        faster = Faster(name, rate, burst, bits)
        if faster.expire_ms != expire:
            raise ValueError("remembered for another time")
        return faster

    def _statistic(self, mode: str) -> Nth | Chance:
        if mode == "nth":
            return Nth(int(self._value("--every")), int(self._value("--packet")))
        units = round(float(self._value("--probability")) * KERNEL_PROBABILITY_UNITS)
        return Chance(Fraction(units, KERNEL_PROBABILITY_UNITS))

    def _source_hash(self, *, ipv6: bool) -> SourceHash:
        if ipv6:
            return SourceHash(*read_bytecode(self._value("--bytecode"), seeds=SEEDS), ipv6=True)
        mask = int(self._value("--cluster-local-nodemask"), 16)
        if int(self._value("--cluster-total-nodes")) != HASH_FAN_OUT:
            raise ValueError("another number of parts")
        return SourceHash(seed=int(self._value("--cluster-hash-seed"), 16), mask=mask)

    def _target(self, name: str) -> Target:
        match name:
            case "ACCEPT":
                return Accept()
            case "DROP":
                return Drop()
            case "RETURN":
                return Return()
            case "REJECT":
                return Reject(RejectWith(self._value("--reject-with")))
            case "CONNMARK":
                return SetConnMark(_mark(self._value("--set-xmark")))
            case "CT" | "TCPOPTSTRIP" | "TCPMSS" | "SYNPROXY":
                return self._proxy(name)
            case "LOG":
                return Log(self._value("--log-prefix"))
        if name.startswith(OWN_PREFIX):
            return Jump(name)
        return self._translation(name)

    def _proxy(self, name: str) -> Target:
        if name == "CT":
            self._expect("--notrack")
            return NoTrack()
        if name == "TCPOPTSTRIP":
            self._expect("--strip-options")
            self._expect(str(TIMESTAMPS))
            return StripTimestamps()
        if name == "TCPMSS":
            return LimitSegments(int(self._value("--set-mss")))
        for word in ("--sack-perm", "--timestamp", "--wscale", str(SYN_PROXY_SCALE)):
            self._expect(word)
        return SynProxy(int(self._value("--mss")))

    def _translation(self, name: str) -> Target:
        match name:
            case "DNAT":
                return _read_destination(self._value("--to-destination"))
            case "SNAT":
                first, _, last = self._value("--to-source").partition("-")
                self._expect("--random-fully")
                return Snat(ip_address(first), ip_address(last) if last else None)
            case "SET":
                clients = self._value("--add-set")
                self._expect("src")
                self._expect("--exist")
                return Remember(clients, int(self._value("--timeout")))
            case "MASQUERADE":
                self._expect("--random-fully")
                return Masquerade()
        raise ValueError(name)

    def _value(self, option: str) -> str:
        self._expect(option)
        return self._words.pop()

    def _skip(self, word: str) -> bool:
        """Whether this word came next; it is read then."""
        if not self._words or self._words[-1] != word:
            return False
        self._words.pop()
        return True

    def _expect(self, option: str) -> None:
        if self._words.pop() != option:
            raise ValueError(f"expected {option}")


def _read_destination(text: str) -> Dnat:
    found = _DESTINATION.fullmatch(text)
    if found is None:
        return Dnat(ip_address(text), None)
    address, port, last, base = found.groups()
    moved = (None, None) if last is None else (int(last), int(base))
    return Dnat(ip_address(address.strip("[]")), int(port), *moved)


def _ports(text: str) -> PortRange:
    first, _, last = text.partition(":")
    return PortRange(int(first), int(last or first))


def _per_second(text: str) -> int:
    number, _, unit = text.partition("/")
    if unit != "sec":
        raise ValueError(f"a rate per {unit}")
    return int(number)


def _mark(text: str) -> Mark:
    value, _, mask = text.partition("/")
    return Mark(int(value, 16), int(mask, 16))
