"""Text back into rules: what `iptables-save` prints, and what `render` wrote.

Only what `render` can write is understood; anything else in one of our chains is `Unknown` and so a
difference.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from ipaddress import ip_address, ip_network
from typing import Any

from balancer.domain.types import Family, Network, Protocol
from balancer.ruleset.address_bpf import read_bytecode
from balancer.ruleset.hashing import SEEDS
from balancer.ruleset.ir import (
    HASH_FAN_OUT,
    KERNEL_PROBABILITY_UNITS,
    OWN_PREFIX,
    Accept,
    AtMost,
    Chance,
    Dnat,
    Drop,
    Faster,
    Goto,
    Jump,
    Listed,
    Log,
    Mark,
    Masquerade,
    MoreThan,
    Nth,
    Original,
    PortRange,
    Reject,
    RejectWith,
    Remember,
    Return,
    Rule,
    Ruleset,
    SetConnMark,
    Snat,
    SourceHash,
    Table,
    TableName,
    Target,
    Unknown,
)
from balancer.ruleset.networks import family_of_list, is_named_rightly
from balancer.ruleset.render import HTABLE_MAX, LIST_LINE, NOT_SYN, render_rule

# Everything at which str.splitlines() splits.
_SEPARATORS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_DESTINATION = re.compile(r"(\[[0-9a-f:.]+\]|[0-9.]+):(\d+)(?:-(\d+)/(\d+))?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


@dataclass(slots=True)
class SavedTable:
    """One table as iptables-save prints it, without counters."""

    policies: dict[str, str] = field(default_factory=dict)
    """Built-in chain -> ACCEPT or DROP."""
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Chain, built-in or not -> its rules, as the text behind `-A <chain> `."""

    def jumps_to_own(self, builtin: str) -> tuple[str, ...]:
        """Our chains that a built-in chain jumps to unconditionally, in order, repeated where the rule is."""
        rules = self.chains.get(builtin, ())
        return tuple(r[3:] for r in rules if r.startswith(f"-j {OWN_PREFIX}") and " " not in r[3:])


@dataclass(slots=True)
class Snapshot:
    """All that one flavour of iptables holds for one family."""

    tables: dict[str, SavedTable] = field(default_factory=dict)

    def table(self, name: str) -> SavedTable:
        return self.tables.get(name, SavedTable())


class Unparsable(ValueError):
    """The text is not iptables-save output, or not a ruleset of ours."""


def parse_save(text: str) -> Snapshot:
    """What a save tool printed, or `render_ruleset`.

    Raises Unparsable where the text is cut short or holds a line of no known kind.
    """
    snapshot = Snapshot()
    table: SavedTable | None = None
    rules: dict[str, list[str]] = {}
    for line in tidy_save_text(text).splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("*") and table is None:
            table, rules = snapshot.tables.setdefault(line[1:], SavedTable()), {}
        elif table is None:
            raise Unparsable(f"Expected a table, found {line!r}.")
        elif line == "COMMIT":
            table.chains.update({chain: tuple(found) for chain, found in rules.items()})
            table = None
        else:
            _read_line(line, table, rules)
    if table is not None:
        raise Unparsable("The text ends in the middle of a table.")
    return snapshot


def own_chains(table: SavedTable, *, family: Family) -> Mapping[str, tuple[Rule | Unknown, ...]]:
    """Our chains in a saved table."""
    return {
        chain: tuple(parse_rule(rule, family=family) for rule in rules)
        for chain, rules in table.chains.items()
        if chain.startswith(OWN_PREFIX)
    }


def parse_ruleset(text: str, *, family: Family) -> Ruleset:
    """The ruleset that `render_ruleset` wrote. Raises Unparsable for anything else."""
    tables = []
    for name, saved in parse_save(text).tables.items():
        chains: dict[str, tuple[Rule, ...]] = {}
        for chain, rules in own_chains(saved, family=family).items():
            unknown = [rule.text for rule in rules if isinstance(rule, Unknown)]
            if unknown:
                raise Unparsable(f"{name}: {chain}: not a rule of ours: {unknown[0]}")
            chains[chain] = tuple(rule for rule in rules if isinstance(rule, Rule))
        jumps = tuple(
            (b, c) for b in saved.chains if not b.startswith(OWN_PREFIX) for c in saved.jumps_to_own(b)
        )
        tables.append(Table(TableName(name), chains, jumps))
    lists = _read_lists(text, family=family)
    named = {r.listed.name for t in tables for rules in t.chains.values() for r in rules if r.listed}
    if lists.keys() != named:
        strange = sorted(lists.keys() ^ named)[0]
        raise Unparsable(f"The rules name other lists than those that follow them: {strange}.")
    return Ruleset(family=family, tables=tuple(tables), lists=lists)


def _read_lists(text: str, *, family: Family) -> dict[str, tuple[Network, ...]]:
    """The lists behind the rules. Raises Unparsable for one that does not hold what its name says."""
    found: dict[str, list[Network]] = {}
    for line in text.splitlines():
        name, _, entry = line.removeprefix(LIST_LINE).partition(" ")
        if line.startswith(LIST_LINE) and family_of_list(name) is family:
            try:
                found.setdefault(name, []).append(ip_network(entry))
            except ValueError:
                raise Unparsable(f"{name}: {entry!r} is not a network.") from None
    lists = {name: tuple(networks) for name, networks in found.items()}
    for name, networks in lists.items():
        if not is_named_rightly(name, networks):
            raise Unparsable(f"{name}: the list is not whole.")
    return lists


def parse_rule(text: str, *, family: Family) -> Rule | Unknown:
    """A rule from the text behind `-A <chain> `; Unknown unless it is spelled just as we would."""
    try:
        rule = _Reader(shlex.split(text)).rule()
    except (ValueError, IndexError, KeyError, TypeError):
        return Unknown(text)
    if _version(rule) not in {None, 6 if family is Family.IPV6 else 4}:
        return Unknown(text)
    return rule if render_rule(rule) == text else Unknown(text)


def _version(rule: Rule) -> int | None:
    if isinstance(rule.target, Dnat | Snat):
        return rule.target.address.version
    network = rule.destination or rule.source
    return network.version if network is not None else None


def tidy_save_text(text: str) -> str:
    """One line per rule, whatever is in the comments of others.

    The save tools print a comment as it is: a line break in it would continue the rule on a line that may
    look like one of ours. Quotes and backslashes are escaped (xtables_save_string), so the end of a quoted
    string is certain.
    """
    return _QUOTED.sub(lambda found: _SEPARATORS.sub("?", found[0]), text)


def _read_line(line: str, table: SavedTable, rules: dict[str, list[str]]) -> None:
    if line.startswith(":"):
        chain, policy = line[1:].split()[:2]
        rules.setdefault(chain, [])
        if policy != "-":
            table.policies[chain] = policy
        return
    if line.startswith("["):  # counters, as `iptables-save -c` prints them
        line = line.partition("] ")[2]
    word, _, rest = line.partition(" ")
    chain, _, rule = rest.partition(" ")
    if word == "-A":
        rules.setdefault(chain, []).append(rule)
    elif word == "-I":
        rules.setdefault(chain, []).insert(0, rule)
    else:
        raise Unparsable(f"Expected a rule, found {line!r}.")


class _Reader:
    """Words of one rule, read from left to right. Any surprise is an exception that `parse_rule` turns into
    Unknown."""

    def __init__(self, words: list[str]) -> None:
        self._words = list(reversed(words))

    def rule(self) -> Rule:
        found: dict[str, Any] = {}
        while self._words:
            word = self._words.pop()
            key, value = self._option(word)
            if key in found:
                raise ValueError(f"{key} twice")
            found[key] = value
        return Rule(**found)

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
            case "tcp" | "udp" | "sctp":
                return self._ports_or_flags()
            case "addrtype":
                return "destination_local", self._value("--dst-type") == "LOCAL"
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

    def _ports_or_flags(self) -> tuple[str, object]:
        if not self._skip("!"):
            return "destination_ports", _ports(self._value("--dport"))
        for word in ("--tcp-flags", *NOT_SYN):
            self._expect(word)
        return "not_syn", True

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
            case "LOG":
                return Log(self._value("--log-prefix"))
        if name.startswith(OWN_PREFIX):
            return Jump(name)
        return self._translation(name)

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
