"""Text back into rules: what `iptables-save` prints, and what `render` wrote.

Only what `render` can write is understood; anything else in one of our chains is `Unknown` and so a
difference.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from balancer.domain.types import Family, Network
from balancer.ruleset.ir import OWN_PREFIX, Rule, Ruleset, Table, TableName, Unknown
from balancer.ruleset.networks import family_of_list, is_named_rightly
from balancer.ruleset.render import LIST_LINE, render_rule
from balancer.ruleset.targets import Dnat, Snat
from balancer.ruleset.words import read_words

# Everything at which str.splitlines() splits.
_SEPARATORS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
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
        rule = read_words(shlex.split(text))
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
