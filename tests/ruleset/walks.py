"""Counting the rules that a connection tries."""

from collections.abc import Mapping

from balancer.ruleset.ir import Rule
from balancer.ruleset.targets import Goto, Jump


def longest_walk(chains: Mapping[str, tuple[Rule, ...]], name: str) -> int:
    """Rules that the unluckiest connection tries from a chain on, the chains it goes to included.

    A jump without a condition is on every way. Those with one tell clients or pools apart: each connection
    takes one of them.
    """
    tried = longest = 0
    for rule in chains[name]:
        tried += 1
        inner = longest_walk(chains, rule.target.chain) if isinstance(rule.target, Goto | Jump) else 0
        longest = max(longest, tried + inner)
        if isinstance(rule.target, Jump) and rule == Rule(target=rule.target):
            tried += inner
    return longest
