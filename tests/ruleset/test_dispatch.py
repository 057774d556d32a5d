"""The way from a packet to its service."""

from fractions import Fraction
from ipaddress import ip_address
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.domain.types import Document, Protocol, Service
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset, TableName
from balancer.ruleset.matching import Packet
from balancer.ruleset.trace import Trace, trace_packet, trace_service
from tests.documents import Data, document, documents, service_data


def trace_to(
    one: Document,
    port: int = 80,
    *,
    interface: str = "eth0",
    protocol: Protocol = Protocol.TCP,
    destination: str = "203.0.113.1",
    local: bool = True,
) -> Trace:
    packet = Packet(
        interface=interface,
        protocol=protocol,
        source=ip_address("198.51.100.9"),
        destination=ip_address(destination),
        port=port,
        destination_local=local,
    )
    return trace_packet(compile_document(one), packet)


def expected_service(one: Document, packet: Packet) -> Service | None:
    """By definition: an exact address before any address; disabled services are not there."""
    fits = [
        s
        for s in one.services
        if s.enabled and (s.interface, s.protocol, s.port) == (packet.interface, packet.protocol, packet.port)
    ]
    exact = [s for s in fits if s.address == packet.destination]
    anywhere = [s for s in fits if s.address is None and packet.destination_local]
    return next(iter(exact + anywhere), None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    documents(max_services=40),
    st.sampled_from(["eth0", "eth1", "bond0.100", "eth", "eth00"]),
    st.sampled_from([Protocol.TCP, Protocol.UDP]),
    st.sampled_from(["203.0.113.1", "203.0.113.2", "198.51.100.77", "192.0.2.5"]),
    st.sampled_from([53, 80, 81, 443, 8080, 8081]),
    st.booleans(),
)
def test_a_packet_finds_the_service_that_it_is_for_and_no_other(
    one: Document, interface: str, protocol: Protocol, destination: str, port: int, local: bool
) -> None:
    packet = Packet(
        interface=interface,
        protocol=protocol,
        source=ip_address("198.51.100.9"),
        destination=ip_address(destination),
        port=port,
        destination_local=local,
    )
    trace = trace_packet(compile_document(one), packet)
    service = expected_service(one, packet)
    assert trace.service == (service.name if service else None)
    assert trace.unmatched == (0 if service else 1)


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        ({"port": 81}, "another port"),
        ({"interface": "eth1"}, "another interface"),
        ({"interface": "eth00"}, "a longer interface name"),
        ({"protocol": Protocol.UDP}, "another protocol"),
        ({"local": False}, "transit traffic"),
    ],
)
def test_what_is_not_for_a_service_goes_on_untouched(packet: dict[str, object], why: str) -> None:
    trace = trace_to(document(service_data()), **packet)  # type: ignore[arg-type]
    assert (trace.matched, trace.shares, trace.unmatched) == (False, {}, Fraction(1)), why


def test_a_service_with_an_address_takes_transit_traffic_to_that_address_only() -> None:
    one = document(service_data(address="203.0.113.7"))
    assert trace_to(one, destination="203.0.113.7", local=False).matched
    assert not trace_to(one, destination="203.0.113.8").matched


@pytest.mark.parametrize("addresses", [3, 4, 5, 30])
def test_any_address_takes_what_the_exact_addresses_of_a_port_leave(addresses: int) -> None:
    exact = [service_data(f"s{i}", address=f"203.0.113.{i * 7}") for i in range(1, addresses + 1)]
    one = document(*exact, service_data("rest"))
    for i in range(1, addresses + 1):
        assert trace_to(one, destination=f"203.0.113.{i * 7}").service == f"s{i}"
    for other in ("203.0.113.1", "203.0.113.254", "10.9.9.9"):
        assert trace_to(one, destination=other).service == "rest"
        assert not trace_to(one, destination=other, local=False).matched


def test_many_interfaces_are_told_apart_by_their_names() -> None:
    interfaces = [f"eth{i}.{vlan}" for i in range(3) for vlan in range(100, 200, 7)] + ["eth1", "eth1.1000"]
    one = document(*(service_data(f"s{i}", interface=name) for i, name in enumerate(interfaces)))
    for i, name in enumerate(interfaces):
        trace = trace_to(one, interface=name)
        assert trace.service == f"s{i}"
        assert len(trace.steps) < 40
    assert not trace_to(one, interface="eth1.10").matched


def longest_walk(one: Document) -> int:
    return max(len(trace_service(one, service).steps) for service in one.services)


@pytest.mark.parametrize(
    "port_of", [lambda i: i + 1, lambda i: (i * 7919) % 65535 + 1], ids=["dense", "spread"]
)
def test_ten_thousand_ports_are_told_apart_in_a_few_dozen_rules(port_of: object) -> None:
    services = [
        service_data(f"s{i}", port=port_of(i), backends=[{"address": "10.0.0.3"}])  # type: ignore[operator]
        for i in range(10_000)
    ]
    one = document(*services)
    ruleset = compile_document(one)
    last = one.services[-1]
    packet = Packet(
        interface="eth0",
        protocol=Protocol.TCP,
        source=ip_address("198.51.100.9"),
        destination=ip_address("203.0.113.1"),
        port=last.port,
    )
    trace = trace_packet(ruleset, packet)
    assert trace.service == last.name
    in_dispatch = [s for s in trace.steps if s.chain.startswith("LB-D-") and s.table is TableName.NAT]
    assert len(in_dispatch) <= 32


def test_a_thousand_addresses_on_one_port_are_told_apart_in_a_few_dozen_rules() -> None:
    addresses = [f"203.{i // 250}.113.{i % 250 + 1}" for i in range(1000)]
    one = document(*(service_data(f"s{i}", address=a, backends=[]) for i, a in enumerate(addresses)))
    for i in (0, 499, 999):
        trace = trace_to(one, destination=addresses[i])
        assert trace.service == f"s{i}"
        assert len(trace.steps) <= 48


def changed_chains(before: Ruleset, after: Ruleset) -> set[str]:
    old, new = before.table(TableName.NAT).chains, after.table(TableName.NAT).chains
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}


def test_a_service_that_comes_touches_only_the_chains_on_its_own_path() -> None:
    services: list[Data] = [service_data(f"s{i}", port=1000 + i) for i in range(2000)]
    before = compile_document(document(*services))
    after = compile_document(document(*services, service_data("new", port=1999 + 1500)))
    changed = changed_chains(before, after)
    own = {chain for chain in changed if chain.startswith("LB-S-new")}
    assert changed > own
    assert len(changed - own) <= 3


def test_a_range_that_reaches_into_the_block_of_other_ports_is_found_behind_them() -> None:
    """A goto to the chain of a block does not come back to look for a range that begins in it and goes on."""
    inner = [service_data(f"s{i}", port=4641 + 2 * i, address="203.0.113.1") for i in range(6)]
    one = document(service_data("wide", port=4600, port_end=4699), *inner)
    for port in range(4600, 4700):
        number, odd = divmod(port - 4641, 2)
        wanted = f"s{number}" if not odd and 0 <= number < 6 else "wide"
        assert trace_to(one, port).service == wanted, port


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 80), st.integers(0, 40), st.integers(0, 3)), max_size=14))
def test_ranges_that_overlap_on_different_addresses_are_told_apart(
    ranges: list[tuple[int, int, int]],
) -> None:
    """Address 0 is any address: it has what the exact ones leave."""
    owner: dict[tuple[int, int], str] = {}
    services = []
    for index, (first, more, place) in enumerate(ranges):
        own = {(place, port) for port in range(first, first + more + 1)}
        if own.isdisjoint(owner):
            owner |= dict.fromkeys(own, f"s{index}")
            end = {"port_end": first + more} if more else {}
            address = f"203.0.113.{place}" if place else None
            services.append(service_data(f"s{index}", port=first, address=address, **end))
    one = document(*services)
    ruleset = compile_document(one)
    edges = {port for first, more, _ in ranges for port in (first, first + more, first + more + 1)}
    for place, port in product(range(1, 5), edges):
        packet = Packet(
            interface="eth0",
            protocol=Protocol.TCP,
            source=None,
            destination=ip_address(f"203.0.113.{place}"),
            port=port,
        )
        wanted = owner.get((place, port), owner.get((0, port)))
        assert trace_packet(ruleset, packet).service == wanted
