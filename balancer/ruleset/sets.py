"""The sets of clients that a ruleset needs: what has to be there before its rules can be loaded.

A set is told by its name alone (names.set_prefix), so that a ruleset that was read from text needs nothing
else.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from balancer.domain.types import Family
from balancer.ruleset.ir import Remember, Ruleset

_NAME = re.compile(r"LB-([46])\.(\d{1,3})-[A-Za-z0-9:._-]+")


@dataclass(frozen=True, slots=True, order=True)
class ClientSet:
    """An ipset `hash:ip` with timeouts."""

    name: str
    family: Family
    prefix: int
    """Bits of an address that are kept; clients with the same ones are one entry."""


def read_set_name(name: str) -> ClientSet | None:
    """The set that a name of ours tells of; None where it is none of ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return ClientSet(name, Family.IPV6 if found[1] == "6" else Family.IPV4, int(found[2]))


def sets_of(ruleset: Ruleset) -> tuple[ClientSet, ...]:
    """All that the rules read or fill, sorted by name."""
    chains = [rules for table in ruleset.tables for rules in table.chains.values()]
    names = {rule.clients for rules in chains for rule in rules if rule.clients is not None}
    names |= {name for members in _remembered(ruleset).values() for name in members}
    return tuple(sorted(found for name in names if (found := read_set_name(name)) is not None))


def members_of_groups(ruleset: Ruleset) -> Mapping[str, tuple[str, ...]]:
    """Set of a group -> the sets of its backends: who is remembered in one is remembered in the other."""
    groups: dict[str, list[str]] = defaultdict(list)
    for own, *rest in _remembered(ruleset).values():
        for group in rest:
            groups[group].append(own)
    return {group: tuple(sorted(members)) for group, members in sorted(groups.items())}


def _remembered(ruleset: Ruleset) -> dict[str, list[str]]:
    """Chain -> the sets that it fills, the backend's own first."""
    found = {
        chain: [rule.target.clients for rule in rules if isinstance(rule.target, Remember)]
        for table in ruleset.tables
        for chain, rules in table.chains.items()
    }
    return {chain: names for chain, names in found.items() if names}
