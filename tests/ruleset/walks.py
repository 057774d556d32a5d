"""Counting the rules that a connection tries."""

from collections.abc import Mapping

from balancer.ruleset.ir import Goto, Rule


def longest_walk(chains: Mapping[str, tuple[Rule, ...]], name: str) -> int:
    """Rules that the unluckiest connection tries from a chain on, the chains it goes to included."""
    walks = [
        tried + (longest_walk(chains, rule.target.chain) if isinstance(rule.target, Goto) else 0)
        for tried, rule in enumerate(chains[name], start=1)
    ]
    return max(walks, default=0)
