"""What the first compiler made of a document, as far as it matters: backends without chains of their own."""

from dataclasses import replace

from balancer.domain.types import Document, Family
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Rule, Ruleset, TableName
from balancer.ruleset.targets import Dnat, Goto


def compile_earlier(document: Document, *, family: Family = Family.IPV4) -> Ruleset:
    ruleset = compile_document(document, family=family)
    nat = ruleset.table(TableName.NAT)
    leaves = {name: rules[0] for name, rules in nat.chains.items() if _is_leaf(rules)}
    chains = {
        name: tuple(_direct(rule, leaves) for rule in rules)
        for name, rules in nat.chains.items()
        if name not in leaves
    }
    return replace(ruleset, tables=(ruleset.table(TableName.FILTER), replace(nat, chains=chains)))


def _is_leaf(rules: tuple[Rule, ...]) -> bool:
    return len(rules) == 1 and isinstance(rules[0].target, Dnat)


def _direct(rule: Rule, leaves: dict[str, Rule]) -> Rule:
    if not isinstance(rule.target, Goto) or rule.target.chain not in leaves:
        return rule
    leaf = leaves[rule.target.chain]
    return replace(rule, protocol=leaf.protocol, target=leaf.target)
