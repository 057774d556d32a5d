"""Where a round robin goes on: the same turns, begun elsewhere.

iptables-legacy starts every nth counter anew at each commit to a table, so that frequent commits would favour
whoever is first. The shares of a rule do not depend on its phase (`--packet`): that alone is changed here.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from balancer.ruleset.ir import Nth, Rule, Ruleset, Table, TableName

_PHASE = re.compile(r"(--mode nth --every \d+ --packet )\d+")


def turned(ruleset: Ruleset, *, offset: Callable[[str], int]) -> Ruleset:
    """The ruleset in which each chain c that counts goes on as if it had served `offset(c)` connections.

    Every chain for itself: then backends that are near each other in the cycle of a big service do not get
    their connections together, and what they get between two commits is as independent as can be. Rules as
    the compiler made them (phase 0).
    """
    return replace(
        ruleset,
        tables=tuple(_turned(t, offset) if t.name is TableName.NAT else t for t in ruleset.tables),
    )


def without_phase(rule: str) -> str:
    """A rule's text in which the phase of a round robin is 0: texts with the same shares are equal."""
    return _PHASE.sub(r"\g<1>0", rule) if " nth " in rule else rule


def _turned(table: Table, offset: Callable[[str], int]) -> Table:
    chains = {
        name: _turn(rules, offset(name)) if any(isinstance(rule.statistic, Nth) for rule in rules) else rules
        for name, rules in table.chains.items()
    }
    return replace(table, chains=chains)


def _turn(rules: tuple[Rule, ...], done: int) -> tuple[Rule, ...]:
    """The rules of a chain through which `done` connections have gone."""
    turned_rules = []
    for rule in rules:
        if isinstance(rule.statistic, Nth):
            every = rule.statistic.every
            rule = replace(rule, statistic=Nth(every, -done % every))
            done -= -(-done // every)  # what the rules behind have not seen
        turned_rules.append(rule)
    return tuple(turned_rules)
