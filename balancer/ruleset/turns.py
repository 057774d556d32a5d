"""Where a round robin goes on: the same cycle, begun at another backend.

iptables-legacy starts every nth counter anew at each commit to a table, so that frequent commits would favour
whoever is first. The shares of a rule do not depend on its phase (`--packet`): that alone is changed here.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from balancer.ruleset.ir import Goto, Nth, Rule, Ruleset, Table, TableName

Chains = dict[str, tuple[Rule, ...]]

_PHASE = re.compile(r"(--mode nth --every \d+ --packet )\d+")


def turned(ruleset: Ruleset, *, offset: Callable[[str], int]) -> Ruleset:
    """The ruleset whose cycles begin later: that of chain c as if it had served `offset(c)` connections.

    `offset` is asked once for each chain where a cycle begins. Rules as the compiler made them (phase 0).
    """
    return replace(
        ruleset,
        tables=tuple(_turned(t, offset) if t.name is TableName.NAT else t for t in ruleset.tables),
    )


def without_phase(rule: str) -> str:
    """A rule's text in which the phase of a round robin is 0: texts with the same shares are equal."""
    return _PHASE.sub(r"\g<1>0", rule) if " nth " in rule else rule


def _turned(table: Table, offset: Callable[[str], int]) -> Table:
    chains = dict(table.chains)
    inner = {
        rule.target.chain
        for rules in table.chains.values()
        if _counts(rules)
        for rule in rules
        if isinstance(rule.target, Goto)
    }
    for name, rules in table.chains.items():
        if _counts(rules) and name not in inner:
            _turn(chains, name, offset(name))
    return replace(table, chains=chains)


def _counts(rules: tuple[Rule, ...]) -> bool:
    return any(isinstance(rule.statistic, Nth) for rule in rules)


def _turn(chains: Chains, name: str, done: int) -> None:
    """Make the chain go on as if `done` connections had gone through it."""
    rules = []
    for rule in chains[name]:
        every = rule.statistic.every if isinstance(rule.statistic, Nth) else 1
        taken = -(-done // every)
        if isinstance(rule.statistic, Nth):
            rule = replace(rule, statistic=Nth(every, -done % every))
        if isinstance(rule.target, Goto) and _counts(chains[rule.target.chain]):
            _turn(chains, rule.target.chain, taken)
        rules.append(rule)
        done -= taken if isinstance(rule.statistic, Nth) else 0
    chains[name] = tuple(rules)
