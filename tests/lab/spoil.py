"""A compiler that is wrong, each kind of wrong."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address

from balancer.lab.judge import WRONG_BY
from balancer.ruleset.ir import Chance, Nth, Rule, Ruleset, Table
from balancer.ruleset.names import OUTPUT, part_chain, service_chain
from balancer.ruleset.targets import Dnat, Jump, Masquerade, Remember, Snat

STRANGE, STRANGE_IPV6 = IPv4Address("192.0.2.77"), IPv6Address("2001:db8:77::1")


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


def wrong_quarter(name: str, rule: Rule) -> Rule | None:
    """A quarter of all clients of a service “hash” goes to other backends."""
    return _with_more_parts(rule) if name == service_chain("hash") else rule


def wrong_part(name: str, rule: Rule) -> Rule | None:
    """One of its 1,024 parts."""
    return _with_more_parts(rule) if name == part_chain("hash", (0, 1, 2, 3)) else rule


def _with_more_parts(rule: Rule) -> Rule:
    if rule.source_hash is None:
        return rule
    mask = rule.source_hash.mask
    return replace(rule, source_hash=replace(rule.source_hash, mask=mask | mask + 1))


def forgotten_client(name: str, rule: Rule) -> Rule | None:
    return None if isinstance(rule.target, Remember) and "sticky" in name else rule


def lonely_client(name: str, rule: Rule) -> Rule | None:
    """Kept by its whole address, where its network is to be kept together."""
    if rule.clients is not None and "group" in rule.clients:
        return replace(rule, clients=_of_one(rule.clients))
    if isinstance(rule.target, Remember) and "group" in rule.target.clients:
        return replace(rule, target=Remember(_of_one(rule.target.clients), rule.target.timeout))
    return rule


def _of_one(clients: str) -> str:
    return clients.replace("4.24-", "4.32-").replace("6.64-group", "6.128-grou")  # 31 characters at most


def wrong_shift(name: str, rule: Rule) -> Rule | None:
    if isinstance(rule.target, Dnat) and rule.target.base is not None:
        return replace(rule, target=replace(rule.target, base=rule.target.base + 1))
    return rule


def missing_interface(name: str, rule: Rule) -> Rule | None:
    return None if rule.in_interface == "eth1" else rule


def deaf_to_the_node(name: str, rule: Rule) -> Rule | None:
    return None if name == OUTPUT and rule.comment == "node" else rule


def forgotten_hairpin(name: str, rule: Rule) -> Rule | None:
    to = rule.target.chain if isinstance(rule.target, Jump) else ""
    return None if to.startswith("LB-H-") else rule


def snat_instead(name: str, rule: Rule) -> Rule | None:
    """All that is masqueraded gets an address that nobody asked for."""
    return replace(rule, target=Snat(STRANGE)) if isinstance(rule.target, Masquerade) else rule


def snat_instead_ipv6(name: str, rule: Rule) -> Rule | None:
    return replace(rule, target=Snat(STRANGE_IPV6)) if isinstance(rule.target, Masquerade) else rule
