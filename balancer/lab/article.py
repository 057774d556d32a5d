"""The two rulesets of the article “Stateful Load Balancer with iptables and NAT”, as it prints them.

They are here to be measured beside ours: each rule counts only the connections that the rules above it let
through, so about a third of all new connections meets no rule and is lost.
"""

from collections.abc import Iterable

from balancer.lab.topology import Lab

ADDRESSES = ("10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6")
EXPECTED_LOSS = (0.20, 0.45)
"""Share of 400 connections lost by either method; (3/4)^4 = 0.316 in the long run."""
_MATCH = "-p tcp -i eth0 --dport 80 -m state --state NEW -m statistic"


def method_one() -> tuple[str, ...]:
    """Rules that count to four, as iptables arguments."""
    return _with_masquerade(
        f"-t nat -A PREROUTING {_MATCH} --mode nth --every 4 --packet {packet} "
        f"-j DNAT --to-destination {address}:80"
        for packet, address in enumerate(ADDRESSES)
    )


def method_two() -> tuple[str, ...]:
    """Rules that throw dice, as iptables arguments."""
    return _with_masquerade(
        f"-t nat -A PREROUTING {_MATCH} --mode random --probability .25 -j DNAT --to-destination {address}:80"
        for address in ADDRESSES
    )


def load_rules(*, lab: Lab, machine: str, flavour: str, rules: Iterable[str]) -> None:
    """Run the commands one by one on a balancer whose nat table is emptied first. Flavour: legacy or nft."""
    tool = f"iptables-{flavour}"
    lab.run(machine=machine, command=[tool, "-w", "5", "-t", "nat", "-F"])
    for rule in rules:
        lab.run(machine=machine, command=[tool, "-w", "5", *rule.split()])


def _with_masquerade(rules: Iterable[str]) -> tuple[str, ...]:
    return (*rules, "-t nat -A POSTROUTING -j MASQUERADE")
