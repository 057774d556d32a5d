"""A compiler that is wrong, each kind of wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address

from balancer.lab.judge import WRONG_BY
from balancer.ruleset.ir import Chance, Dnat, Masquerade, Nth, Rule, Ruleset, Table


def spoil_rules(ruleset: Ruleset, change: Callable[[str, Rule], Rule | None]) -> Ruleset:
    """The ruleset with each rule changed, or left out where `change` gives None."""

    def spoil(table: Table) -> Table:
        chains = {
            name: tuple(new for rule in rules if (new := change(name, rule)) is not None)
            for name, rules in table.chains.items()
        }
        return replace(table, chains=chains)

    return replace(ruleset, tables=tuple(spoil(table) for table in ruleset.tables))


def wrong_share(name: str, rule: Rule) -> Rule | None:
    if rule.statistic == Nth(4):
        return replace(rule, statistic=Nth(2))
    if rule.statistic == Chance(Fraction(1, 4)):
        return replace(rule, statistic=Chance(Fraction(1, 4) * (1 + WRONG_BY)))
    return rule


def dropped_rule(name: str, rule: Rule) -> Rule | None:
    return None if rule.target == Dnat(IPv4Address("10.0.0.6"), 80) else rule


def forgotten_masquerade(name: str, rule: Rule) -> Rule | None:
    return None if isinstance(rule.target, Masquerade) else rule


def wrong_port(name: str, rule: Rule) -> Rule | None:
    if rule.target == Dnat(IPv4Address("10.0.0.4"), 80):
        return replace(rule, target=Dnat(IPv4Address("10.0.0.4"), 8081))
    return rule
