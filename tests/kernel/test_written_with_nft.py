"""Somebody writes into the tables of iptables-nft with nft, past what iptables-nft-save tells of."""

import re

import pytest

from balancer.kernel.base import Flavour, Rejected
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import Namespace, document, ruleset, run, service

WEB = service()
STRANGE = ("numgen", "random", "mod", "10", "<", "5")
"""iptables has no words for it."""


@pytest.fixture
def carried(namespace: Namespace) -> NodeKernel:
    kernel = NodeKernel(flavour=Flavour.NFT, wait_seconds=5)
    kernel.sync(ruleset=ruleset(WEB), document=document(WEB))
    return kernel


def checks_of(kernel: NodeKernel) -> dict[str, str]:
    return {check.id: check.message for check in kernel.facts().checks}


def test_a_table_that_was_put_to_sleep_is_named_and_the_command_wakes_it(carried: NodeKernel) -> None:
    wanted = ruleset(WEB)
    assert carried.compare(ruleset=wanted).before == ()
    run("nft", "add", "table", "ip", "nat", "{ flags dormant; }")
    assert carried.compare(ruleset=wanted).before == ("nft ip nat: flags dormant",)
    (command,) = re.findall(r"'(nft [^']+)'", checks_of(carried)["nft-dormant"])
    run(*command.split())
    assert carried.compare(ruleset=wanted).before == ()
    assert "nft-dormant" not in checks_of(carried)


def test_a_rule_in_a_chain_of_ours_that_iptables_cannot_show_is_put_right(carried: NodeKernel) -> None:
    wanted, before = ruleset(WEB), run("nft", "-s", "list", "table", "ip", "nat")
    run("nft", "insert", "rule", "ip", "nat", "LB-S-web", *STRANGE, "return")
    assert not carried.compare(ruleset=wanted).in_sync
    carried.sync(ruleset=wanted, document=document(WEB))
    assert carried.compare(ruleset=wanted).in_sync
    assert sorted(run("nft", "-s", "list", "table", "ip", "nat").split("\n")) == sorted(before.split("\n"))


def test_such_a_rule_in_a_chain_of_others_stops_every_write_with_what_to_do(carried: NodeKernel) -> None:
    run("nft", "insert", "rule", "ip", "nat", "PREROUTING", *STRANGE, "accept")
    before = run("nft", "list", "table", "ip", "nat")
    for _ in range(2):
        with pytest.raises(Rejected, match=r"nft -a list table ip nat.*Nothing was changed"):
            carried.sync(ruleset=ruleset(WEB), document=document(WEB))
    assert run("nft", "list", "table", "ip", "nat") == before, "no jump was put in beside the one unseen"
    assert "nft delete rule ip nat" in checks_of(carried)["nft-rules-in-our-tables"]
