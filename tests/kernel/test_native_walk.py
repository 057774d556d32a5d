"""What a chain of nft does to balanced packets: certain, perhaps, or not at all."""

from ipaddress import ip_address
from typing import Any

import pytest

from balancer.domain.types import Family
from balancer.kernel.native_listing import BaseChain, NativeRule, NativeTable
from balancer.kernel.native_match import Packets
from balancer.kernel.native_packets import Door, find_balanced, find_ends
from balancer.kernel.native_walk import walk
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_rule
from tests.documents import backend_data, document, service_data

DROP = {"drop": None}
ACCEPT = {"accept": None}
NEW = Packets(
    words="new connections",
    family=Family.IPV4,
    protocols=frozenset({"tcp"}),
    in_interfaces=frozenset({"eth0"}),
    out_interfaces=frozenset({"eth1"}),
    destinations=(int(ip_address("10.0.0.3")), int(ip_address("10.0.0.4"))),
    destination_ports=frozenset({(80, 80)}),
)


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"meta": {"key": key}}, right, op)


def ct(key: str, right: Any, op: str = "in") -> dict[str, Any]:
    return match({"ct": {"key": key}}, right, op)


def payload(protocol: str, name: str, right: Any, op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": name}}, right, op)


def jump(target: str, kind: str = "jump") -> dict[str, Any]:
    return {kind: {"target": target}}


CT_MARK = {"ct": {"key": "mark"}}
BACKENDS = {"set": ["10.0.0.3", "10.0.0.4"]}
SOME = payload("ip", "saddr", "203.0.113.9")
"""Of the clients."""


def deeds(*rules: list[dict[str, Any]], policy: str = "accept", **chains: list[list[dict[str, Any]]]) -> str:
    """`drop!` for what is done to all, `drop?` for what is done to some perhaps; `p` of the policy."""
    held = {"base": list(rules), **chains}
    table = NativeTable(
        family="inet",
        name="t",
        bases=(),
        rules={
            chain: tuple(
                NativeRule(chain=chain, handle=n, text=f"{chain}{n}", statements=tuple(one))
                for n, one in enumerate(found)
            )
            for chain, found in held.items()
        },
    )
    base = BaseChain(
        family="inet", table="t", name="base", kind="filter", hook="forward", priority=0, policy=policy
    )
    found = walk(table, base, NEW)
    return " ".join(
        f"{'p' if one.rule is None else one.text}{'!' if one.certain else '?'}" for one in found.deeds
    )


@pytest.mark.parametrize(
    ("rules", "policy", "expected"),
    [
        ([], "drop", "p!"),
        ([], "accept", ""),
        ([[ct("status", "dnat"), ACCEPT]], "drop", ""),
        ([[ct("status", ["snat", "dnat"]), ACCEPT]], "drop", ""),
        ([[SOME, ACCEPT]], "drop", "p?"),
        ([[SOME, ACCEPT], [ct("status", "dnat"), ACCEPT]], "drop", ""),
        ([[SOME, DROP], [ct("status", "dnat"), ACCEPT]], "drop", "base0?"),
        ([[ct("state", ["established", "related"]), ACCEPT]], "drop", "p!"),
        ([[ct("state", "invalid"), DROP]], "accept", ""),
        ([[ct("state", "established", "!="), DROP]], "accept", "base0!"),
        ([[match({"&": [{"ct": {"key": "mark"}}, 0x50000000]}, 0x10000000), ACCEPT]], "drop", ""),
        ([[match({"&": [{"ct": {"key": "mark"}}, 0x40000000]}, 0x40000000), DROP]], "accept", ""),
        ([[ct("mark", 1, "=="), DROP]], "accept", ""),
        ([[meta("oifname", "docker0"), DROP]], "accept", ""),
        ([[meta("oifname", "eth*"), DROP]], "accept", "base0!"),
        ([[meta("iifname", "eth0", "!="), DROP]], "accept", ""),
        ([[payload("ip", "daddr", BACKENDS), ACCEPT]], "drop", ""),
        ([[payload("ip", "daddr", "10.0.0.3"), DROP]], "accept", "base0?"),
        ([[payload("ip", "daddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}), DROP]], "accept", "base0!"),
        ([[payload("ip6", "daddr", "::1"), DROP]], "accept", ""),
        ([[payload("udp", "dport", 80), DROP]], "accept", ""),
        ([[payload("tcp", "dport", {"set": [22, {"range": [79, 81]}]}), DROP]], "accept", "base0!"),
        ([[{"limit": {"rate": 1}}, DROP]], "accept", "base0?"),
        ([[{"xt": {"type": "match"}}, ACCEPT]], "drop", "p?"),
        ([[{"something new": 1}, ACCEPT]], "drop", "p?"),
        ([[{"mangle": {"key": CT_MARK, "value": {"meta": {"key": "mark"}}}}]], "accept", "base0!"),
        ([[{"mangle": {"key": CT_MARK, "value": {"|": [CT_MARK, 0x10]}}}]], "accept", ""),
        ([[{"mangle": {"key": CT_MARK, "value": {"&": [CT_MARK, 0x10]}}}]], "accept", "base0!"),
        ([[{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}]], "accept", ""),
        ([[jump("sub")]], "drop", "p!"),
        ([[jump("accepts")]], "drop", ""),
        ([[SOME, jump("accepts")]], "drop", "p?"),
        ([[SOME, jump("partly")]], "drop", "p?"),
        ([[SOME, jump("sub")]], "drop", "p!"),
        ([[jump("leaves")], [ACCEPT]], "drop", ""),
        ([[jump("leaves", "goto")], [ACCEPT]], "drop", "p!"),
        ([[SOME, {"return": None}], [ACCEPT]], "drop", "p?"),
        ([[{"return": None}], [DROP]], "accept", ""),
        ([[jump("loop")]], "drop", "p!"),
        (
            [[{"vmap": {"key": {"meta": {"key": "oifname"}}, "data": {"set": [["eth1", jump("accepts")]]}}}]],
            "drop",
            "",
        ),
        (
            [[{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", DROP]]}}}]],
            "accept",
            "base0!",
        ),
    ],
)
def test_what_is_done_is_told_with_its_certainty(
    rules: list[list[dict[str, Any]]], policy: str, expected: str
) -> None:
    chains = {
        "sub": [[{"counter": {}}]],
        "accepts": [[ACCEPT]],
        "partly": [[payload("tcp", "sport", 5), ACCEPT]],
        "leaves": [[{"return": None}], [DROP]],
        "loop": [[jump("loop")]],
    }
    assert deeds(*rules, policy=policy, **chains) == expected


def test_what_is_balanced_is_read_from_our_own_rules() -> None:
    one = document(
        service_data("web", port=80, address="198.51.100.1", additional_interfaces=["eth2"]),
        service_data("dns", port=8000, port_end=8099, protocol="udp", from_node=True),
        service_data("v6", port=81, backends=[backend_data("2001:db8::3", port=8081)]),
    )
    for family, last in ((Family.IPV4, "10.0.0.3"), (Family.IPV6, "2001:db8::3")):
        (nat,) = [t for t in compile_document(one, family=family).tables if t.name == "nat"]
        ends = find_ends({chain: tuple(map(render_rule, rules)) for chain, rules in nat.chains.items()})
        assert ip_address(last) in {backend.address for backend in ends.backends}
        if family is Family.IPV6:
            assert ends.doors == {Door("tcp", (81, 81), None, "eth0")}
            assert {backend.ports for backend in ends.backends} == {(8081, 8081)}
            continue
        assert {(door.protocol, door.ports) for door in ends.doors} == {
            ("tcp", (80, 80)),
            ("udp", (8000, 8099)),
        }
        assert ends.interfaces == {"eth0", "eth2"}
        assert ends.sends
        balanced = find_balanced(
            ends, family=family, ways=lambda all_of: dict.fromkeys(all_of, ("eth1", False))
        )
        assert {packets.state for packets in balanced.forwarded} == {"new", "established"}
        assert {packets.out_interfaces for packets in balanced.forwarded if not packets.reply} == {
            frozenset({"eth1"})
        }
