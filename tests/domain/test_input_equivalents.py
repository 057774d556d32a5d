"""Rules of INPUT as access lists: what can be said is said exactly, what cannot is told with its reason."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.domain.input_equivalents import Equivalent, find_equivalent
from balancer.domain.observation import InputPath
from balancer.domain.types import Access, Family, Service
from balancer.kernel.base import Flavour
from balancer.kernel.input_rules import find_input_path
from balancer.ruleset.parse import parse_save
from tests.documents import backend_data, document, service_data


def path_of(*rules: str, policy: str = "ACCEPT", family: Family = Family.IPV4) -> InputPath:
    chains = sorted({rule.split()[0] for rule in rules} - {"INPUT"})
    lines = [f":INPUT {policy} [0:0]", *(f":{c} - [0:0]" for c in chains), *(f"-A {r}" for r in rules)]
    saved = "\n".join(["*filter", *lines, "COMMIT", ""])
    return find_input_path(parse_save(saved), flavour=Flavour.NFT, family=family)


def web(**fields: Any) -> Service:
    return document(service_data(**fields)).services[0]


def found(*rules: str, policy: str = "ACCEPT", service: Service | None = None) -> Equivalent:
    return find_equivalent(service=service or web(), paths=[path_of(*rules, policy=policy)])


def lists(equivalent: Equivalent) -> tuple[list[str], list[str]]:
    return [str(network) for network in equivalent.deny], [str(network) for network in equivalent.allow]


@pytest.mark.parametrize(
    ("rules", "deny"),
    [
        (("INPUT -s 203.0.113.0/24 -j DROP",), ["203.0.113.0/24"]),
        (("INPUT -s 203.0.113.9/32 -p tcp -m tcp --dport 80 -j REJECT",), ["203.0.113.9/32"]),
        (("INPUT -s 203.0.113.9/32 -i eth0 -j DROP",), ["203.0.113.9/32"]),
        (("INPUT -s 203.0.113.9/32 -i eth+ -j DROP",), ["203.0.113.9/32"]),
        (
            (
                "INPUT -p tcp -m multiport --dports 22,80 -j f2b",
                "f2b -s 203.0.113.9/32 -j REJECT",
                "f2b -j RETURN",
            ),
            ["203.0.113.9/32"],
        ),
        (
            ("INPUT -s 203.0.113.64/26 -j ACCEPT", "INPUT -s 203.0.113.0/24 -j DROP"),
            ["203.0.113.0/26", "203.0.113.128/25"],
        ),
        (("INPUT -s 203.0.113.0/25 -j DROP", "INPUT -s 203.0.113.128/25 -j DROP"), ["203.0.113.0/24"]),
        (("INPUT -s 203.0.113.0/24 -j ACCEPT", "INPUT -s 203.0.113.9/32 -j DROP"), []),
        (("INPUT -p tcp --dport 80 -j ACCEPT", "INPUT -s 203.0.113.0/24 -j DROP"), []),
        (("INPUT -s 203.0.113.0/24 -p udp -j DROP",), []),
        (("INPUT -s 203.0.113.0/24 -p tcp --dport 22 -j DROP",), []),
        (
            ("INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "INPUT -s 203.0.113.0/24 -j DROP"),
            ["203.0.113.0/24"],
        ),
    ],
)
def test_networks_that_are_dropped_become_a_deny_list(rules: tuple[str, ...], deny: list[str]) -> None:
    equivalent = found(*rules)
    assert lists(equivalent) == (deny, [])
    assert equivalent.unsaid == ()


@pytest.mark.parametrize(
    ("rules", "policy", "expected"),
    [
        (("INPUT -s 10.1.0.0/16 -p tcp --dport 80 -j ACCEPT",), "DROP", ([], ["10.1.0.0/16"])),
        (("INPUT -s 10.1.0.0/16 -j ACCEPT", "INPUT -j DROP"), "ACCEPT", ([], ["10.1.0.0/16"])),
        (
            ("INPUT -s 10.1.0.5/32 -j DROP", "INPUT -s 10.1.0.0/16 -j ACCEPT"),
            "DROP",
            (["10.1.0.5/32"], ["10.1.0.0/16"]),
        ),
        (
            ("INPUT -s 10.1.0.0/17 -j ACCEPT", "INPUT -s 10.1.128.0/17 -j ACCEPT"),
            "DROP",
            ([], ["10.1.0.0/16"]),
        ),
        (("INPUT -s 10.0.0.0/8 -j ACCEPT", "INPUT -p tcp --dport 80 -j ACCEPT"), "DROP", ([], [])),
    ],
)
def test_a_port_that_is_open_to_some_only_becomes_an_allow_list(
    rules: tuple[str, ...], policy: str, expected: tuple[list[str], list[str]]
) -> None:
    assert lists(found(*rules, policy=policy)) == expected


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("-s 203.0.113.0/24 -m limit --limit 3/min -j DROP", "a rate limit"),
        ("! -s 203.0.113.0/24 -j DROP", "a negation (! -s)"),
        ("-m set --match-set bad src -j DROP", "a set of addresses (ipset)"),
        ("-s 203.0.113.0/24 -m connlimit --connlimit-above 5 -j DROP", "a number of connections"),
        ("-s 203.0.113.0/24 -p tcp -m tcp --sport 1024 -j DROP", "the client's port"),
        ("-s 203.0.113.0/24 -m owner --uid-owner 0 -j DROP", "the condition --uid-owner"),
        ("-s 203.0.113.0/24 -i eth0 -j DROP", "it is about eth0 only"),
        ("-s 203.0.113.0/24 -d 198.51.100.1/32 -j DROP", "it is about 198.51.100.1/32 only"),
        ("-s 203.0.113.0/24 -p tcp --dport 80 -j DROP", "some of the service's ports only"),
    ],
)
def test_what_access_lists_cannot_say_is_told_with_the_reason(rule: str, why: str) -> None:
    service = web(additional_interfaces=["eth1"], port=80, port_end=81)
    equivalent = found(f"INPUT {rule}", service=service)
    assert not equivalent.adds
    (unsaid,) = equivalent.unsaid
    assert (unsaid.rule, why in unsaid.words) == (f"-A INPUT {rule}", True)


def test_a_jump_that_asks_for_more_and_an_exception_in_a_chain_are_reasons_too() -> None:
    limited = found("INPUT -m limit --limit 5/sec -j bad", "bad -s 203.0.113.0/24 -j DROP")
    assert "a rate limit" in limited.unsaid[0].words
    excepted = found("INPUT -j bad", "bad -s 203.0.113.8/29 -j RETURN", "bad -s 203.0.113.0/24 -j DROP")
    assert not excepted.adds
    assert "an exception before it" in excepted.unsaid[0].words
    elsewhere = found("INPUT -j bad", "bad -s 192.0.2.0/24 -j RETURN", "bad -s 203.0.113.0/24 -j DROP")
    assert lists(elsewhere) == (["203.0.113.0/24"], [])


def test_a_drop_behind_a_rule_that_lets_somebody_in_is_never_made_wider() -> None:
    unclear = "INPUT -s 203.0.113.0/24 -m limit --limit 3/min -j ACCEPT"
    equivalent = found(unclear, "INPUT -s 203.0.113.0/28 -j DROP", "INPUT -s 192.0.2.0/24 -j DROP")
    assert lists(equivalent) == (["192.0.2.0/24"], [])
    assert "before it lets some of these clients in" in equivalent.unsaid[0].words
    closed = found(unclear, "INPUT -s 10.0.0.0/8 -j ACCEPT", policy="DROP")
    assert not closed.adds
    assert "cannot name" in closed.unsaid[0].words


def test_a_port_that_is_closed_to_everybody_is_not_said() -> None:
    equivalent = found("INPUT -p tcp --dport 22 -j ACCEPT", policy="DROP")
    assert not equivalent.adds
    assert "closes the port to everybody" in equivalent.unsaid[0].words


def test_rules_that_were_not_kept_are_told() -> None:
    path = InputPath(flavour="nft", policy="DROP", left_out=3)
    (unsaid,) = find_equivalent(service=web(), paths=[path]).unsaid
    assert "3 more rules of iptables-nft" in unsaid.words


def test_a_packet_has_to_pass_both_flavours() -> None:
    one = path_of("INPUT -s 10.0.0.0/8 -j ACCEPT", policy="DROP")
    other = path_of("INPUT -s 10.1.0.0/16 -j ACCEPT", "INPUT -s 10.1.7.0/24 -j DROP", policy="DROP")
    third = path_of("INPUT -s 203.0.113.0/24 -j DROP")
    assert lists(find_equivalent(service=web(), paths=[one, other, third])) == (
        ["203.0.113.0/24"],
        ["10.1.0.0/16"],
    )


def test_the_other_family_is_left_out() -> None:
    service = web(backends=[backend_data("2001:db8::3")])
    ipv4 = path_of("INPUT -s 203.0.113.0/24 -j DROP")
    ipv6 = path_of("INPUT -s 2001:db8:bad::/48 -j DROP", family=Family.IPV6)
    assert lists(find_equivalent(service=service, paths=[ipv4, ipv6])) == (["2001:db8:bad::/48"], [])


def guarded(**access: Any) -> Service:
    networks = {key: tuple(map(ip_network, value)) for key, value in access.items()}
    return replace(web(), access=Access(**networks))


def test_what_the_service_says_already_is_not_added() -> None:
    equivalent = found("INPUT -s 203.0.113.0/28 -j DROP", service=guarded(deny=["203.0.113.0/24"]))
    assert not equivalent.adds
    assert equivalent.said


def test_an_allow_list_of_the_service_is_never_made_wider() -> None:
    rules = ("INPUT -s 10.0.0.0/8 -j ACCEPT",)
    within = found(*rules, policy="DROP", service=guarded(allow=["10.1.0.0/16"]))
    assert (within.adds, within.unsaid) == (False, ())
    beyond = found(*rules, policy="DROP", service=guarded(allow=["192.0.2.0/24"]))
    assert not beyond.adds
    assert "has an allow list already" in beyond.unsaid[0].words


SMALL = st.builds(
    lambda number, length: ip_network(
        (int(ip_address("203.0.113.0")) & ~15 | number & -(1 << (32 - length)) & 15, length)
    ),
    st.integers(0, 15),
    st.integers(28, 32),
)
RULES = st.lists(st.tuples(SMALL, st.sampled_from(["ACCEPT", "DROP"])), max_size=8)


@settings(max_examples=200, deadline=None)
@given(RULES, st.sampled_from(["ACCEPT", "DROP"]))
def test_every_client_is_treated_as_input_would_have(rules: list[Any], policy: str) -> None:
    equivalent = found(*(f"INPUT -s {network} -j {verdict}" for network, verdict in rules), policy=policy)
    if equivalent.unsaid:
        assert policy == "DROP"
        return
    for last in range(16):
        client = ip_address(int(ip_address("203.0.113.0")) + last)
        verdict = next((verdict for network, verdict in rules if client in network), policy)
        denied = any(client in network for network in equivalent.deny)
        allowed = not equivalent.allow or any(client in network for network in equivalent.allow)
        assert (allowed and not denied) is (verdict == "ACCEPT")


def test_additions_join_what_is_there() -> None:
    access = Access(deny=(ip_network("203.0.113.0/24"),))
    added = Equivalent(deny=(ip_network("192.0.2.0/24"),), allow=(ip_network("10.0.0.0/8"),)).add_to(access)
    assert list(map(str, added.deny)) == ["192.0.2.0/24", "203.0.113.0/24"]
    assert list(map(str, added.allow)) == ["10.0.0.0/8"]
