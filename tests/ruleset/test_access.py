"""Access rules as rules: whom they refuse, where that is counted, and what other changes leave alone."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from balancer.domain.types import Family, Protocol
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Rule, Ruleset, TableName, Unknown
from balancer.ruleset.matching import Packet
from balancer.ruleset.networks import family_of_list, make_list
from balancer.ruleset.owners import owners_of_rules
from balancer.ruleset.parse import Unparsable, parse_rule, parse_ruleset
from balancer.ruleset.reasons import Reason, reason_of, reasons_of
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.trace import trace_packet
from tests.documents import SCENES, any_access_data, document, service_data

EVERYTHING: dict[str, Any] = {
    "allow": ["192.0.2.0/24", "198.51.100.0/24"],
    "deny": ["192.0.2.7", "198.51.100.128/25"],
    "new_per_second_per_source": 10,
    "connections_per_source": 20,
    "connections_per_backend": 30,
    "log_refused": True,
}


@st.composite
def networks(draw: st.DrawFn) -> IPv4Network:
    """In few addresses, so that they meet; of any size, so that some are everything."""
    bits = draw(st.sampled_from([0, 1, 8, 24, 28, 30, 31, 32, 32]))
    address = int(ip_address("192.0.2.0")) + draw(st.integers(0, 63))
    return ip_network((address, bits), strict=False)  # type: ignore[return-value]


def packet_from(source: IPv4Address) -> Packet:
    return Packet(
        interface="eth0",
        protocol=Protocol.TCP,
        source=source,
        destination=ip_address("203.0.113.1"),
        port=80,
    )


@given(st.lists(networks(), max_size=8), st.lists(networks(), max_size=8), st.integers(0, 127))
@example([], [], 3)
def test_the_tracer_lets_in_whom_the_lists_let_in(
    allow: Sequence[IPv4Network], deny: Sequence[IPv4Network], last: int
) -> None:
    lists = {"allow": [str(n) for n in allow], "deny": [str(n) for n in deny]}
    ruleset = compile_document(document(service_data(access=lists)))
    source = IPv4Address(int(ip_address("192.0.2.0")) + last)
    trace = trace_packet(ruleset, packet_from(source))
    if any(source in network for network in deny):
        assert (trace.dropped, trace.why) == (1, Reason.DENIED)
    elif allow and not any(source in network for network in allow):
        assert (trace.dropped, trace.why) == (1, Reason.NOT_ALLOWED)
    else:
        assert (sum(trace.shares.values()), trace.dropped, trace.why) == (1, 0, None)


@given(st.lists(networks(), min_size=1, max_size=12))
def test_a_list_holds_the_same_addresses_in_disjoint_networks_none_of_which_is_everything(
    found: Sequence[IPv4Network],
) -> None:
    name, kept = make_list(tuple(found))
    assert family_of_list(name) is Family.IPV4
    assert all(network.prefixlen > 0 for network in kept)
    assert sum(n.num_addresses for n in kept) == sum(
        n.num_addresses for n in {n for n in found if not any(n != o and n.subnet_of(o) for o in found)}
    )
    assert all(any(one.subnet_of(other) for other in kept) or one.prefixlen == 0 for one in found)


def test_a_rule_with_every_option_is_read_back() -> None:
    ruleset = compile_document(document(service_data(access=EVERYTHING)))
    assert parse_ruleset(render_ruleset(ruleset), family=Family.IPV4) == ruleset
    six = service_data(
        address="2001:db8::1",
        backends=[{"address": "2001:db8::3"}],
        access=EVERYTHING | {"allow": ["2001:db8::/32"], "deny": ["::/0"]},
    )
    ruleset = compile_document(document(six), family=Family.IPV6)
    text = render_ruleset(ruleset)
    assert parse_ruleset(text, family=Family.IPV6) == ruleset
    assert "--hashlimit-srcmask 64 " in text
    assert "--connlimit-mask 64 --connlimit-saddr" in text
    assert "--connlimit-mask 128 --connlimit-daddr" in text


@given(st.lists(any_access_data(SCENES[Family.IPV4]), max_size=4))
def test_arbitrary_access_rules_are_read_back(found: list[dict[str, Any]]) -> None:
    services = (service_data(f"s{i}", port=1000 + i, access=access) for i, access in enumerate(found))
    ruleset = compile_document(document(*services))
    assert parse_ruleset(render_ruleset(ruleset), family=Family.IPV4) == ruleset


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" 192.0.2.7/32\n", " 192.0.2.8/32\n"),
        (" 192.0.2.7/32\n", " 192.0.2.7/33\n"),
        ("# LB-4.net-", "# "),
    ],
    ids=["another network", "no network", "no list"],
)
def test_a_list_that_is_not_whole_is_no_ruleset(old: str, new: str) -> None:
    text = render_ruleset(compile_document(document(service_data(access=EVERYTHING))))
    assert old in text
    with pytest.raises(Unparsable):
        parse_ruleset(text.replace(old, new), family=Family.IPV4)


@pytest.mark.parametrize(
    "text",
    [
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK  SYN -j DROP",
        "-m hashlimit --hashlimit-upto 10/sec --hashlimit-mode srcip --hashlimit-name x -j DROP",
        "-m hashlimit --hashlimit-above 10/sec --hashlimit-burst 20 --hashlimit-mode srcip --hashlimit-name"
        " LB-0123456789ab --hashlimit-htable-max 262144 --hashlimit-htable-expire 9000 -j DROP",
        "-m connlimit --connlimit-upto 10 --connlimit-mask 32 --connlimit-saddr -j DROP",
        "-m limit --limit 1/min -j DROP",
        "-j LOG",
        "-p tcp -m conntrack --ctorigsrc 10.0.0.0/8 -j DROP",
        "-m set --match-set LB-4.net-0123456789abcdef0123 dst -j DROP",
    ],
)
def test_another_form_of_these_is_no_rule_of_ours(text: str) -> None:
    assert parse_rule(text, family=Family.IPV4) == Unknown(text)


def test_services_with_equal_lists_share_them() -> None:
    deny = [f"10.{i}.0.0/17" for i in range(100)]
    services = (service_data(f"s{i}", port=1000 + i, access={"deny": deny}) for i in range(20))
    ruleset = compile_document(document(*services))
    ((name, kept),) = ruleset.lists.items()
    assert len(kept) == 100
    assert len(name) <= names.SET_NAME_MAX


CHANGES: dict[str, dict[str, Any]] = {
    "another weight": {"backends": [{"address": "10.0.0.3", "weight": 5}, {"address": "10.0.0.4"}]},
    "a backend less": {"backends": [{"address": "10.0.0.3"}]},
    "another scheduler": {"scheduler": "source-hash"},
    "another port": {"port": 81},
    "another source": {"source_nat": {"mode": "none"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_other_change_touches_the_rules_that_refuse(change: str) -> None:
    base = {"backends": [{"address": "10.0.0.3"}, {"address": "10.0.0.4"}], "access": EVERYTHING}
    before, after = (
        own_rules(compile_document(document(service_data(**base | fields))))
        for fields in ({}, CHANGES[change])
    )
    assert before == after
    assert len(before) > 6


def own_rules(ruleset: Ruleset) -> dict[tuple[str, str], tuple[Rule, ...]]:
    prefixes = ("LB-A-", "LB-C-")
    return {
        (table.name, chain): rules
        for table in ruleset.tables
        for chain, rules in table.chains.items()
        if chain.startswith(prefixes)
    }


def test_the_count_of_connections_has_a_table_that_no_other_service_touches() -> None:
    limited = service_data(access={"connections_per_source": 5})
    others = [service_data(f"s{i}", port=1000 + i) for i in range(50)]
    (mangle,) = (t for t in compile_document(document(limited)).tables if t.name is TableName.MANGLE)
    (same,) = (t for t in compile_document(document(limited, *others)).tables if t.name is TableName.MANGLE)
    assert same == mangle
    assert all(t.name is not TableName.MANGLE for t in compile_document(document(*others)).tables)


def test_of_syn_proxies_the_first_and_the_last_alone_touch_the_table_that_counts_connections() -> None:
    limited = service_data(access={"connections_per_source": 5})
    proxied = [service_data(f"s{i}", port=1000 + i, access={"syn_proxy": True}) for i in range(3)]
    none, one, three = (
        compile_document(document(limited, *proxied[:count])).table(TableName.MANGLE) for count in (0, 1, 3)
    )
    assert none != one
    assert one == three


def test_backends_that_come_or_go_touch_the_count_only_where_some_of_them_share_an_address() -> None:
    limit = {"connections_per_backend": 5}
    apart, more, shared, other = (
        compile_document(document(service_data(access=limit, backends=backends))).table(TableName.MANGLE)
        for backends in (
            [{"address": "10.0.0.3"}],
            [{"address": "10.0.0.3"}, {"address": "10.0.0.4", "port": 8080}],
            [{"address": "10.0.0.3"}, {"address": "10.0.0.3", "port": 8080}],
            [{"address": "10.0.0.3"}, {"address": "10.0.0.3", "port": 8081}],
        )
    )
    assert apart == more
    assert len({repr(one) for one in (apart, shared, other)}) == 3


def test_a_service_inside_of_anothers_place_is_not_counted_there() -> None:
    wide = service_data("wide", port=8000, port_end=8099, access={"connections_per_source": 5})
    exact = service_data("exact", port=8050, address="203.0.113.1")
    (mangle,) = (t for t in compile_document(document(wide, exact)).tables if t.name is TableName.MANGLE)
    leads = [rule for rules in mangle.chains.values() for rule in rules if rule.comment == "exact"]
    assert leads, "who is not limited is found first"
    assert all(not hasattr(rule.target, "chain") for rule in leads)


def test_each_reason_has_a_rule_that_counts_it_alone() -> None:
    web = service_data("web", access=EVERYTHING, additional_interfaces=["eth1"])
    plain, none = service_data("a" * 60, port=81), service_data("none", port=82, backends=[])
    ruleset = compile_document(document(web, plain, none))
    found = reasons_of(ruleset, ["web", "a" * 60, "none"])
    assert {reason for service, reason in found.values() if service == "web"} == set(Reason) - {
        Reason.NO_BACKEND
    }
    assert {reason for service, reason in found.values() if service == "a" * 60} == {
        Reason.INVALID,
        Reason.NOT_SYN,
    }
    assert ("none", Reason.NO_BACKEND) in found.values()
    for (table, chain, index), (service, reason) in found.items():
        rule = ruleset.table(table).chains[chain][index]
        in_chain = chain == names.refusal_chain(service, reason)
        assert in_chain or reason is Reason.INVALID or reason_of(rule) is reason
    invalid = [chain for (_, chain, _), value in found.items() if value == ("web", Reason.INVALID)]
    assert len(invalid) == 2 + 4, "two interfaces and four backends"


def test_a_service_without_access_rules_has_no_chain_for_them() -> None:
    open_to_all = service_data(access={"drop_invalid": False})
    text = render_ruleset(compile_document(document(open_to_all)))
    assert not any(word in text for word in ("LB-A-", "LB-DENIED", "LB-UNKNOWN", "0x60000000", "*mangle"))


@pytest.mark.parametrize(
    "name", ["web", "a-service.with-a-rather-long-name_of.its-own.example.org", "x" * 63]
)
def test_a_line_of_the_log_begins_with_the_service_and_the_reason(name: str) -> None:
    prefixes = [names.log_prefix(name, reason) for reason in Reason]
    assert all(len(prefix) <= 29 for prefix in prefixes)
    assert len(set(prefixes)) == len(Reason)
    assert all(prefix.startswith(f"LB {name[:5]}") for prefix in prefixes)
    assert names.log_prefix("web", "denied") == "LB web denied: "


def test_another_rate_is_counted_under_another_name_and_the_same_one_goes_on() -> None:
    def rate_names(**access: int) -> list[str]:
        ruleset = compile_document(document(service_data(access=access)))
        rules = ruleset.table(TableName.NAT).chains["LB-S-web"]
        return [rule.faster.name for rule in rules if rule.faster is not None]

    five = rate_names(new_per_second_per_source=5)
    assert five == rate_names(new_per_second_per_source=5, connections_per_source=3)
    assert (
        five
        != rate_names(new_per_second_per_source=6)
        != rate_names(new_per_second_per_source=6, new_burst=12)
    )
    assert all(len(name) <= 15 for name in five)


def test_every_rule_that_refuses_is_owned_by_its_service() -> None:
    one = document(service_data(access=EVERYTHING))
    text = render_ruleset(compile_document(one))
    owners = dict(zip(text.splitlines(), owners_of_rules(text, services=one.services), strict=True))
    own = [line for line in owners if line.startswith(("-A LB-A-web", "-A LB-C-web"))]
    assert len(own) > 12
    assert {owners[line] for line in own} == {"web"}
