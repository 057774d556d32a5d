"""Rules of nft at the hook input, as nft itself lists them: what they say of a service, and what is named."""

import pytest

from balancer.domain.input_equivalents import Equivalent, find_equivalent
from balancer.domain.observation import InputPath
from balancer.domain.types import Service
from balancer.kernel.native_input import find_native_paths
from balancer.kernel.native_listing import read_native
from tests.documents import backend_data, document, service_data
from tests.kernel.machine import Namespace, run
from tests.kernel.native_tables import FAIL2BAN, FIREWALLD

CHAIN = "nft inet filter input: "
SAID = {
    # Rule -> whom it denies on port 80 of eth0, over IPv4 and over IPv6.
    "ip saddr 203.0.113.0/24 drop": ("203.0.113.0/24", ""),
    "ip6 saddr 2001:db8:bad::/48 counter log reject": ("", "2001:db8:bad::/48"),
    "ip saddr { 203.0.113.7, 203.0.113.64/26 } tcp dport { 22, 80 } drop": (
        "203.0.113.7/32 203.0.113.64/26",
        "",
    ),
    "ip saddr @blocked reject": ("198.51.100.7/32 203.0.113.0/30 203.0.113.4/31", ""),
    'iifname { "eth0", "eth1" } ip saddr 203.0.113.9 drop': ("203.0.113.9/32", ""),
    'iifname "eth*" ip saddr 203.0.113.9 drop': ("203.0.113.9/32", ""),
    "ct state new ip saddr 203.0.113.9 tcp dport 1-1024 drop": ("203.0.113.9/32", ""),
    "meta l4proto { tcp, udp } ip saddr 203.0.113.9 th dport 80 drop": ("203.0.113.9/32", ""),
    "ip saddr 203.0.113.9 tcp dport vmap { 22 : accept, 80 : drop }": ("203.0.113.9/32", ""),
    "ip saddr 203.0.113.9 jump bad": ("203.0.113.9/32", ""),
    "fib daddr type local ip saddr 203.0.113.9 drop": ("203.0.113.9/32", ""),
    # None of these meets a client's first packet to the service.
    "ct state vmap { established : accept, related : accept, invalid : drop }": ("", ""),
    "ct state established,related accept": ("", ""),
    "iif lo accept": ("", ""),
    "iif != lo ip daddr 127.0.0.0/8 drop": ("", ""),
    "icmpv6 type nd-neighbor-solicit accept": ("", ""),
    "ip protocol icmp drop": ("", ""),
    "meta pkttype broadcast drop": ("", ""),
    "ct status dnat accept": ("", ""),
    "udp dport 80 drop": ("", ""),
    "tcp dport 443 drop": ("", ""),
}
UNSAID = {
    "ip saddr 203.0.113.9 jump spared": "an exception before it",
    "tcp dport 80 limit rate over 10/second drop": "a rate limit",
    "ip saddr != 10.0.0.0/8 tcp dport 80 drop": "a negation (saddr)",
    "ip saddr . tcp dport { 203.0.113.9 . 80 } drop": "several things at once",
    "ct count over 10 reject": "a number of connections",
    "meta mark 7 drop": "a mark of packets",
    "tcp flags & (fin | syn) == fin | syn drop": "flags of TCP",
    "ip saddr & 255.0.0.255 == 10.0.0.1 drop": "the condition payload saddr",
    "ip saddr @huge drop": "a set that was not read, or is too large (@huge)",
    'iifname "eth0" ip saddr 203.0.113.9 ip daddr 198.51.100.1 drop': "it is about 198.51.100.1/32 only",
}


def web(*, ipv6: bool = False) -> Service:
    backends = [backend_data("2001:db8::3")] if ipv6 else [backend_data("10.0.0.3")]
    return document(service_data(backends=backends)).services[0]


def loaded(*rules: str, policy: str = "accept") -> tuple[InputPath, ...]:
    huge = ", ".join(f"10.0.{i >> 8}.{i & 255}" for i in range(501))
    lines = "\n".join(rules)
    text = f"""
flush ruleset
table inet filter {{
  set blocked {{
    type ipv4_addr; flags interval
    elements = {{ 198.51.100.7, 203.0.113.0-203.0.113.5 }}
  }}
  set huge {{
    type ipv4_addr
    elements = {{ {huge} }}
  }}
  chain bad {{
    tcp dport 80 drop
  }}
  chain spared {{
    tcp dport 22 return
    drop
  }}
  chain input {{
    type filter hook input priority 0; policy {policy};
{lines}
  }}
}}
"""
    return load_text(text)


def load_text(text: str) -> tuple[InputPath, ...]:
    run("nft", "-f", "-", text=text)
    return find_native_paths(read_native())


def found(paths: tuple[InputPath, ...], service: Service) -> Equivalent:
    return find_equivalent(service=service, paths=paths)


def denied(equivalent: Equivalent) -> str:
    return " ".join(str(network) for network in equivalent.deny)


def test_simple_rules_of_nft_are_said_as_access_lists_and_the_others_are_named(namespace: Namespace) -> None:
    for rule, (ipv4, ipv6) in SAID.items():
        paths = loaded(rule)
        equivalents = found(paths, web()), found(paths, web(ipv6=True))
        assert (rule, *map(denied, equivalents)) == (rule, ipv4, ipv6)
        assert not any(one.unsaid or one.allow for one in equivalents), rule
    for rule, why in UNSAID.items():
        equivalent = found(loaded(rule), web())
        (one,) = equivalent.unsaid
        assert why in one.words, rule
        assert one.rule.startswith("nft inet filter ")
        assert equivalent.adds is False


def test_a_policy_of_drop_allows_those_that_its_chain_lets_in(namespace: Namespace) -> None:
    paths = loaded(
        "ip saddr { 192.0.2.0/24, 198.51.100.0/24 } tcp dport 80 accept", "tcp dport 22 accept", policy="drop"
    )
    equivalent = found(paths, web())
    assert [str(network) for network in equivalent.allow] == ["192.0.2.0/24", "198.51.100.0/24"]
    assert equivalent.said[-1].rule == f"{CHAIN}policy drop"


@pytest.mark.parametrize(
    ("text", "rule", "deny"),
    [
        (FIREWALLD % "counter", "ip saddr 203.0.113.0/24 drop", "203.0.113.0/24"),
        (FAIL2BAN, "ip saddr @addr-set-sshd reject", "203.0.113.7/32 203.0.113.8/32"),
    ],
)
def test_firewalld_and_fail2ban_are_read_as_they_are(
    namespace: Namespace, text: str, rule: str, deny: str
) -> None:
    service = document(service_data(protocol="tcp", port=5300)).services[0]
    equivalent = found(load_text(text), service)
    assert denied(equivalent) == deny
    assert rule in equivalent.said[0].rule
    assert not equivalent.unsaid
