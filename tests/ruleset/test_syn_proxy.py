"""The rules of a SYN proxy: where they are, and where a packet goes through them."""

from fractions import Fraction
from ipaddress import ip_address
from typing import Any

import pytest

from balancer.domain.types import Family, Protocol
from balancer.kernel.plan import make_plan, want_nothing, want_ruleset
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset, TableName
from balancer.ruleset.matching import Packet
from balancer.ruleset.parse import parse_save
from balancer.ruleset.reasons import Reason, reasons_of
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.targets import NoTrack, SynProxy
from balancer.ruleset.trace import Trace, trace_packet
from tests.documents import backend_data, document, service_data

ON: dict[str, Any] = {"access": {"syn_proxy": True}}
TABLES = (TableName.MANGLE, TableName.FILTER, TableName.NAT, TableName.RAW)


def compiled(*services: dict[str, Any], family: Family = Family.IPV4) -> Ruleset:
    return compile_document(document(*services), family=family)


def trace(ruleset: Ruleset, address: str = "203.0.113.1", *, interface: str | None = "eth0") -> Trace:
    packet = Packet(
        interface=interface,
        protocol=Protocol.TCP,
        source=None,
        destination=ip_address(address),
        port=80,
    )
    return trace_packet(ruleset, packet)


def is_proxied(found: Trace) -> bool:
    return any(isinstance(step.rule.target, SynProxy) and step.matched for step in found.steps)


def test_only_documents_with_a_proxy_use_further_tables() -> None:
    plain = compiled(service_data())
    assert [table.name for table in plain.tables] == [TableName.FILTER, TableName.NAT]
    assert [table.name for table in compiled(service_data(**ON)).tables] == list(TABLES)


def test_a_client_gets_its_backend_behind_the_proxy() -> None:
    found = trace(compiled(service_data(backends=[backend_data(), backend_data("10.0.0.4")], **ON)))
    assert is_proxied(found)
    assert found.service == "web"
    assert found.shares == {"10.0.0.3:80": Fraction(1, 2), "10.0.0.4:80": Fraction(1, 2)}
    assert found.masqueraded


def test_without_a_usable_backend_nobody_is_led_on_but_refused_at_once() -> None:
    ruleset = compiled(service_data(backends=[backend_data(state="disabled")], **ON))
    assert TableName.RAW not in {table.name for table in ruleset.tables}
    assert trace(ruleset).refused == 1


def test_an_address_of_a_proxied_service_that_belongs_to_another_one_is_left_alone() -> None:
    ruleset = compiled(
        service_data("any", **ON),
        service_data("exact", address="203.0.113.1", backends=[backend_data("10.0.0.9")]),
    )
    assert is_proxied(trace(ruleset, "203.0.113.2"))
    exact = trace(ruleset)
    assert not is_proxied(exact)
    assert exact.shares == {"10.0.0.9:80": 1}


def test_services_elsewhere_are_not_in_the_trees_of_the_proxy() -> None:
    ruleset = compiled(
        service_data(**ON), service_data("far", port=81), service_data("out", interface="eth1")
    )
    comments = {rule.comment for rules in ruleset.table(TableName.RAW).chains.values() for rule in rules} - {
        None
    }
    assert comments == {"web"}


def test_what_the_node_itself_sends_needs_no_proxy() -> None:
    ruleset = compiled(service_data(from_node=True, **ON), service_data("other", port=81, from_node=True))
    found = trace(ruleset, interface=None)
    assert not is_proxied(found)
    assert sum(found.shares.values()) == 1
    assert trace(compiled(service_data(**ON)), interface=None).unmatched == 1


@pytest.mark.parametrize(("family", "mss"), [(Family.IPV4, 1460), (Family.IPV6, 1440)])
def test_the_proxy_announces_what_fits_into_a_packet_of_the_family(family: Family, mss: int) -> None:
    backend = backend_data("10.0.0.3" if family is Family.IPV4 else "fd00::3")
    chains = compiled(service_data(backends=[backend], **ON), family=family).table(TableName.FILTER).chains
    found = [r.target for rules in chains.values() for r in rules if isinstance(r.target, SynProxy)]
    assert found == [SynProxy(mss)]


def test_two_trees_in_one_table_have_names_of_their_own() -> None:
    many = [service_data(f"s{port}", port=port, from_node=True, **ON) for port in range(8000, 8020)]
    nat = compiled(*many).table(TableName.NAT).chains
    assert set(nat[names.PROXIED]) != set(nat[names.OUTPUT])
    assert (
        trace_packet(
            compiled(*many),
            Packet(
                interface="eth0",
                protocol=Protocol.TCP,
                source=None,
                destination=ip_address("203.0.113.1"),
                port=8019,
            ),
        ).service
        == "s8019"
    )


def tables_written(before: Ruleset, after: Ruleset) -> list[str]:
    held = parse_save(render_ruleset(before))
    plans = make_plan(snapshot=held, wanted=want_ruleset(after), family=Family.IPV4)
    return [plan.table for plan in plans]


def test_a_syn_is_never_kept_from_tracking_while_there_is_no_proxy_for_it() -> None:
    plain, proxied = compiled(service_data()), compiled(service_data(**ON))
    assert tables_written(plain, proxied) == ["mangle", "filter", "nat", "raw"]
    assert tables_written(proxied, plain)[0] == "raw"
    both = compiled(service_data(**ON), service_data("other", port=81, **ON))
    assert tables_written(proxied, both)[-1] == "raw"
    assert tables_written(both, proxied)[0] == "raw"


def test_nothing_of_it_is_left_when_it_is_turned_off_or_all_is_removed() -> None:
    held = parse_save(render_ruleset(compiled(service_data(**ON))))
    for wanted in (want_ruleset(compiled(service_data())), want_nothing()):
        plans = {plan.table: plan for plan in make_plan(snapshot=held, wanted=wanted, family=Family.IPV4)}
        assert set(plans["raw"].delete) == set(held.table("raw").chains) - {"PREROUTING"}
        assert set(plans["mangle"].delete) == {names.OUTPUT}


def test_only_first_packets_are_kept_from_tracking() -> None:
    raw = compiled(service_data(**ON)).table(TableName.RAW)
    (first,) = raw.chains[names.PREROUTING]
    assert first.tcp_flags is not None
    leaves = [rule for rule in raw.chains[names.SYN] if isinstance(rule.target, NoTrack)]
    assert [(rule.comment, rule.destination_local) for rule in leaves] == [("web", True)]


@pytest.mark.parametrize("log", [False, True])
def test_who_is_on_no_list_does_not_even_shake_hands(log: bool) -> None:
    lists = {"deny": ["192.0.2.0/24"], "allow": ["198.51.100.0/24"], "log_refused": log}
    ruleset = compiled(service_data(access=ON["access"] | lists))
    own = ruleset.table(TableName.FILTER).chains[names.proxy_chain("web")]
    assert [rule.listed is not None for rule in own] == [True, True, False]
    assert own[-1].target == SynProxy(1460)
    reasons = {
        reason for (table, _, _), (_, reason) in reasons_of(ruleset, ["web"]).items() if table == "filter"
    }
    assert reasons == {Reason.DENIED, Reason.NOT_ALLOWED, Reason.INVALID}
    for source, dropped in (("192.0.2.1", 1), ("203.0.113.9", 1), ("198.51.100.9", 0)):
        packet = Packet(
            interface="eth0",
            protocol=Protocol.TCP,
            source=ip_address(source),
            destination=ip_address("203.0.113.1"),
            port=80,
        )
        assert trace_packet(ruleset, packet).dropped == dropped
