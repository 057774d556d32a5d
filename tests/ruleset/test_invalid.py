"""INVALID packets of backends: whose are dropped, how soon it is found out, and what changes these rules."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings

from balancer.domain.types import Address, BackendState, Document, Family, PortRange, Protocol
from balancer.kernel.depth import NFT_CHAINS_MAX
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.depth import deepest_way
from balancer.ruleset.invalid import invalid_chains
from balancer.ruleset.ir import Rule, Ruleset, TableName
from balancer.ruleset.reasons import Reason, reasons_of
from balancer.ruleset.targets import Drop, Goto, Jump
from tests.documents import Data, any_documents, backend_data, document, service_data
from tests.ruleset.walks import longest_walk

Chains = dict[str, tuple[Rule, ...]]


def filter_of(one: Document, family: Family = Family.IPV4) -> Chains:
    return dict(compile_document(one, family=family).table(TableName.FILTER).chains)


def dropping(chains: Chains, source: Address, port: int, *, chain: str = names.INVALID) -> Rule | None:
    """The rule that ends the way of an INVALID segment from there, which is for nobody that we know."""
    for rule in chains[chain]:
        if rule.in_interface is None and _is_from(rule, source, port):
            if not isinstance(rule.target, Jump | Goto):
                return rule
            is_log = rule.target.chain.startswith("LB-A-")
            found = rule if is_log else dropping(chains, source, port, chain=rule.target.chain)
            if found or isinstance(rule.target, Goto):
                return found
    return None


def _is_from(rule: Rule, source: Address, port: int) -> bool:
    ports = rule.source_ports
    return (rule.source is None or source in rule.source) and (
        ports is None or ports.first <= port <= ports.last
    )


def ports_of_backends(one: Document, family: Family) -> Iterator[tuple[Address, PortRange]]:
    for service in one.services:
        asked = service.enabled and service.family is family and service.protocol is Protocol.TCP
        if asked and service.access.drop_invalid:
            for backend in service.backends:
                for ports in service.port_ranges:
                    low, high = (service.backend_port(backend, port) for port in (ports.first, ports.last))
                    yield backend.address, PortRange(low, high)


@given(any_documents())
@settings(max_examples=40, deadline=None)
def test_just_what_comes_from_the_ports_of_backends_is_dropped(one: Document) -> None:
    for family in Family:
        chains, places = filter_of(one, family), list(ports_of_backends(one, family))
        near = {
            place
            for _, ports in places
            for end in (ports.first, ports.last)
            for place in range(end - 1, end + 2)
        }
        addresses = {address for address, _ in places}
        for address in addresses | {address + 1 for address in addresses}:
            for port in near:
                wanted = any(address == a and ports.first <= port <= ports.last for a, ports in places)
                found = names.INVALID in chains and dropping(chains, address, port) is not None
                assert found is wanted


def test_states_weights_and_health_of_backends_change_no_rule() -> None:
    one = document(service_data(backends=[backend_data(f"10.0.0.{i}") for i in range(1, 20)]))
    (service,) = one.services
    others = (
        replace(
            backend,
            up=place % 2 == 0,
            weight=1 + place,
            state=list(BackendState)[place % 3],
        )
        for place, backend in enumerate(service.backends)
    )
    changed = replace(one, services=(replace(service, backends=tuple(others)),))
    before, after = (
        {name: rules for name, rules in filter_of(each).items() if name.startswith(("LB-B", "LB-INVALID"))}
        for each in (one, changed)
    )
    assert before == after


def test_a_backend_of_several_services_stands_there_once_and_is_counted_for_none() -> None:
    shared, own = backend_data("10.0.0.3", port=80), backend_data("10.0.0.4", port=80)
    one = document(
        service_data("a", port=80, backends=[shared, own], access={"log_refused": True}),
        service_data("b", port=81, backends=[shared]),
    )
    chains = filter_of(one)
    leaf, counted = chains[names.BACKENDS]
    assert (leaf.comment, leaf.target) == (None, Drop())
    assert (counted.comment, counted.target) == ("a", Goto("LB-A-a:invalid"))
    found = reasons_of(compile_document(one), ["a", "b"])
    places = {place: who for place, who in found.items() if place[1] == names.BACKENDS}
    assert places == {(TableName.FILTER, names.BACKENDS, 1): ("a", Reason.INVALID)}


def test_ranges_that_overlap_stand_together_and_others_keep_their_names() -> None:
    def ranged(name: str, port: int, end: int, to: int) -> Data:
        return service_data(name, port=port, port_end=end, backends=[backend_data("10.0.0.3", port=to)])

    one = document(
        ranged("a", 1000, 1099, 5000), ranged("b", 2000, 2099, 5050), ranged("c", 3000, 3099, 5150)
    )
    rules = filter_of(one)[names.BACKENDS]
    assert [(rule.source_ports, rule.comment) for rule in rules] == [
        (PortRange(5000, 5149), None),
        (PortRange(5150, 5249), "c"),
    ]


@pytest.mark.parametrize(
    "fields", [{"protocol": "udp"}, {"access": {"drop_invalid": False}}, {"backends": []}, {"enabled": False}]
)
def test_without_backends_to_ask_for_there_is_no_such_rule(fields: Data) -> None:
    chains = filter_of(document(service_data(**fields), service_data("other", protocol="udp", port=53)))
    assert not [name for name in chains if name.startswith("LB-B")]
    assert all(rule.target != Jump(names.BACKENDS) for rules in chains.values() for rule in rules)


def test_who_is_in_no_network_of_backends_meets_one_rule() -> None:
    jump, *_ = filter_of(
        document(service_data(backends=[backend_data("10.0.0.3"), backend_data("10.0.0.9")]))
    )[names.INVALID]
    assert str(jump.source) == "10.0.0.0/28"


def in_a_row(count: int) -> Document:
    """With other ports on each of four machines, as of many services on the same ones."""
    backends = [[backend_data(f"10.0.0.{n}", port=8000 + i) for n in range(1, 5)] for i in range(count // 4)]
    return document(*(service_data(f"s{i}", port=1 + i, backends=b) for i, b in enumerate(backends)))


def each_its_own_address(count: int) -> Document:
    backends = [backend_data(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(count)]
    return document(*(service_data(f"s{i}", port=1 + i, backends=backends[i::4]) for i in range(4)))


def halves_of_halves(count: int) -> Document:
    """The worst: every network that holds some has just two parts that do, and these are equal."""
    spread = (sum((i >> bit & 1) << 2 * bit for bit in range(16)) for i in range(count))
    backends = [backend_data(str(ip_address("10.0.0.0") + at)) for at in spread]
    return document(*(service_data(f"s{i}", port=1 + i, backends=backends[i::4]) for i in range(4)))


PRICES = {in_a_row: (2499, 18, 9), each_its_own_address: (2499, 17, 9), halves_of_halves: (2499, 13, 12)}
"""Of 2,000 backends: rules, the longest walk, and chains on a way, the built-in one among them."""


@pytest.mark.parametrize("make", PRICES, ids=lambda make: make.__name__)
def test_what_finding_one_of_many_backends_costs_is_written_down(make: object) -> None:
    one = make(2000)  # type: ignore[operator]
    chains = invalid_chains(one.services, family=Family.IPV4)
    own = {name: rules for name, rules in chains.items() if name.startswith("LB-B")}
    walk = longest_walk(chains, names.BACKENDS)
    deep = len(deepest_way(Ruleset(Family.IPV4, (compile_document(one).table(TableName.FILTER),))))
    assert deep <= NFT_CHAINS_MAX
    assert (sum(map(len, own.values())), walk, deep) == PRICES[make]
