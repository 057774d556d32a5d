"""What a document costs, in rules and in steps. A change to the compiler shows here.

A document of n services with b backends each has the rules of n places to find (DISPATCH) and n times those
of one service (SERVICES); the unluckiest connection walks through both, one after the other. So 1,000
services of 1,000 backends need not be compiled (millions of rules): the sum is tested where it is cheap.
"""

import os
from pathlib import Path

import pytest

from balancer.domain.types import Document, Family, Scheduler
from balancer.kernel.depth import NFT_CHAINS_MAX
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.depth import deepest_way
from balancer.ruleset.ir import TableName
from balancer.ruleset.trace import trace_service
from tests.documents import document, service_data
from tests.ruleset.prices import (
    Price,
    backends_of,
    count_rules,
    price_of,
    price_of_dispatch,
    price_of_service,
    service_of,
)
from tests.ruleset.walks import longest_walk

GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/schedulers.md"
COUNTS = (0, 1, 2, 10, 1000)
"""Backends of a service."""

DISPATCH = {1: Price(10, 1), 10: Price(34, 7), 1000: Price(2508, 16)}
"""Services -> rules and walk without what is each service's own; those of an empty document among them."""

SERVICES = {
    # Backends 0, 1, 2, 10, 1000: rules of one service, and its longest walk.
    "round-robin": ((2, 2), (3, 3), (5, 4), (26, 9), (2625, 23)),
    "random": ((2, 2), (3, 3), (5, 4), (24, 8), (2337, 21)),
    "least-connections": ((2, 2), (3, 3), (5, 4), (24, 8), (2337, 21)),
    "failover": ((2, 2), (3, 3), (4, 3), (16, 7), (1625, 21)),
    "source-hash": ((2, 2), (3, 3), (713, 19), (1239, 22), (2365, 22)),
}
WITH_PERSISTENCE = {
    "round-robin": ((2, 2), (5, 5), (9, 7), (46, 20), (5657, 70)),
    "random": ((2, 2), (5, 5), (9, 7), (44, 19), (5369, 70)),
    "least-connections": ((2, 2), (5, 5), (9, 7), (44, 19), (5369, 70)),
    "failover": ((2, 2), (5, 5), (8, 6), (36, 18), (4657, 70)),
    "source-hash": ((2, 2), (5, 5), (717, 22), (1259, 33), (5397, 70)),
}
PERSISTENT = {"mode": "source"}
KEEPS_PORT = backends_of(2)
"""Without a port of their own: they have that of the service."""


def test_the_ledger_has_every_scheduler() -> None:
    assert set(SERVICES) == set(WITH_PERSISTENCE) == set(Scheduler)


@pytest.mark.parametrize("services", DISPATCH)
def test_what_finding_one_of_many_services_costs_is_written_down(services: int) -> None:
    assert price_of_dispatch(services) == DISPATCH[services]


@pytest.mark.parametrize("scheduler", SERVICES)
def test_what_a_service_costs_is_written_down(scheduler: str) -> None:
    plain = [price_of_service(service_of(scheduler, count)) for count in COUNTS]
    kept = [price_of_service(service_of(scheduler, count, persistence=PERSISTENT)) for count in COUNTS]
    assert plain == [Price(*row) for row in SERVICES[scheduler]]
    assert kept == [Price(*row) for row in WITH_PERSISTENCE[scheduler]]


CHEAP = [(10, count, scheduler) for scheduler in SERVICES for count in (0, 1, 2, 10)]
CHEAP += [(1000, 2, "round-robin"), (1, 1000, "random")]
DEAR = [(10, 1000, scheduler) for scheduler in SERVICES]
DEAR += [(1000, 10, scheduler) for scheduler in SERVICES if scheduler != "source-hash"]


@pytest.mark.parametrize(
    ("services", "backends", "scheduler"), CHEAP + (DEAR if "LBADMIN_CAMPAIGN" in os.environ else [])
)
def test_the_price_of_many_services_is_that_of_finding_them_and_of_each(
    services: int, backends: int, scheduler: str
) -> None:
    every = (service_of(scheduler, backends, f"s{i}", port=1000 + i) for i in range(services))
    assert price_of(document(*every)) == derive(services, backends, scheduler)


def derive(services: int, backends: int, scheduler: str) -> Price:
    finding = DISPATCH[services]
    rules, walk = SERVICES[scheduler][COUNTS.index(backends)]
    return Price(finding.rules + services * rules, finding.walk + walk)


def test_a_million_backends_are_still_a_short_walk() -> None:
    assert derive(1000, 1000, "round-robin") == Price(2_627_508, 39)
    assert derive(1000, 1000, "source-hash") == Price(2_367_508, 38)
    assert max(derive(1000, 1000, scheduler).walk for scheduler in SERVICES) == 39


@pytest.mark.parametrize("scheduler", SERVICES)
def test_no_way_leads_through_more_chains_than_nft_takes(scheduler: str) -> None:
    """4,096 ports in a row take two chains less than all 65,536 would."""
    others = (service_of("random", 1, f"s{i}", port=4096 + i) for i in range(1, 4096))
    one = document(service_of(scheduler, 1000, port=4096), *others)
    assert len(deepest_way(compile_document(one))) <= NFT_CHAINS_MAX - 2


def many_ports_of_one_service() -> Document:
    ports = [str(port) for port in range(2001, 3000)]
    return document(service_of("random", 2, port=2000, address="203.0.113.1", additional_ports=ports))


def many_services_on_one_address() -> Document:
    return document(
        *(service_of("random", 2, f"s{i}", port=2000 + i, address="203.0.113.1") for i in range(1000))
    )


def many_addresses_of_one_service() -> Document:
    others = [f"203.{i // 250}.113.{i % 250 + 1}" for i in range(1, 1000)]
    return document(service_of("random", 2, address="203.0.113.1", additional_addresses=others))


def many_services_on_one_port() -> Document:
    addresses = [f"203.{i // 250}.113.{i % 250 + 1}" for i in range(1000)]
    return document(*(service_of("random", 2, f"s{i}", address=a) for i, a in enumerate(addresses)))


def ranges_side_by_side() -> Document:
    return document(
        *(
            service_of("random", 2, f"s{i}", port=1000 + 50 * i, port_end=1029 + 50 * i, backends=KEEPS_PORT)
            for i in range(1000)
        )
    )


def ranges_across_each_other() -> Document:
    """On different addresses, each begins inside of the one before."""
    return document(
        *(
            service_of(
                "random",
                2,
                f"s{i}",
                port=1000 + 50 * i,
                port_end=1074 + 50 * i,
                address=f"203.0.113.{i % 2 + 1}",
                backends=KEEPS_PORT,
            )
            for i in range(1000)
        )
    )


def both_families() -> Document:
    """500 services of each, of which only the IPv4 ones are priced here."""
    six = [{"address": "2001:db8::3"}, {"address": "2001:db8::4"}]
    return document(
        *(service_of("random", 2, f"s{i}", port=1000 + i) for i in range(500)),
        *(
            service_data(f"t{i}", protocol="udp", port=1000 + i, address="2001:db8:1::1", backends=six)
            for i in range(500)
        ),
    )


def many_interfaces() -> Document:
    return document(*(service_of("random", 2, f"s{i}", interface=f"eth0.{i}") for i in range(1, 1001)))


def all_at_once() -> Document:
    """Every way of being found, from the node too, with persistence, a pool and hairpins."""
    return document(
        service_of(
            "round-robin",
            10,
            "web",
            address="203.0.113.1",
            port=80,
            additional_ports=["443", "8000-8099"],
            additional_addresses=["203.0.113.2"],
            additional_interfaces=["eth1"],
            from_node=True,
            persistence=PERSISTENT,
        ),
        service_of("source-hash", 10, "dns", protocol="sctp", port=53, persistence=PERSISTENT),
        service_of("failover", 10, "db", port=5432, source_nat={"mode": "none", "hairpin": True}),
        service_of(
            "random",
            10,
            "mail",
            port=25,
            source_nat={"mode": "snat", "address": "198.51.100.1", "address_end": "198.51.100.9"},
        ),
    )


MIXES = {
    many_ports_of_one_service: Price(2_513, 22),
    many_services_on_one_address: Price(7_508, 20),
    many_addresses_of_one_service: Price(2_517, 21),
    many_services_on_one_port: Price(7_512, 19),
    ranges_side_by_side: Price(7_400, 29),
    ranges_across_each_other: Price(14_094, 37),
    both_families: Price(3_758, 20),
    many_interfaces: Price(7_208, 26),
    all_at_once: Price(1_426, 34),
}


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.__name__)
def test_what_a_mix_costs_is_written_down(mix: object) -> None:
    assert price_of(mix()) == MIXES[mix]  # type: ignore[operator,index]


def test_each_family_has_only_its_own_rules() -> None:
    one = both_families()
    assert price_of(one, family=Family.IPV6) == Price(3758, 20)


def test_the_source_addresses_of_many_pools_are_told_apart_in_steps_too() -> None:
    """In POSTROUTING, for 255 pools: 16 blocks of 16 and the masquerading of the rest."""
    pools = [{"mode": "snat", "address": f"198.51.100.{i}"} for i in range(1, 256)]
    one = document(
        *(service_of("random", 1, f"s{i}", port=1000 + i, source_nat=p) for i, p in enumerate(pools))
    )
    ruleset = compile_document(one)
    nat = ruleset.table(TableName.NAT).chains
    assert longest_walk(nat, names.POSTROUTING) == 32
    assert count_rules(ruleset) == 1682


ACCESS = {
    "nothing of UDP": ({"protocol": "udp"}, Price(0, 0)),
    "nothing of TCP": ({"protocol": "tcp"}, Price(9, 1)),
    "lists": ({"access": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7/32"]}}, Price(8, 2)),
    "a rate": ({"access": {"new_per_second_per_source": 10}}, Price(6, 1)),
    "limits of connections": (
        {"access": {"connections_per_source": 10, "connections_per_backend": 100}},
        Price(4, 0),
    ),
    "lists and rate, logged": (
        {
            "access": {
                "deny": ["192.0.2.0/24"],
                "new_per_second_per_source": 10,
                "log_refused": True,
            }
        },
        Price(12, 2),
    ),
}
"""What access rules add, in rules and in the walk of a connection that is let in."""


@pytest.mark.parametrize("what", ACCESS)
def test_what_access_rules_add_is_written_down(what: str) -> None:
    fields, more = ACCESS[what]
    plain, asking = (document(service_of("random", 1, **each)) for each in ({}, fields))
    found = Price(
        count_rules(compile_document(asking)) - count_rules(compile_document(plain)),
        _walk_of_the_admitted(asking) - _walk_of_the_admitted(plain),
    )
    assert found == more


def _walk_of_the_admitted(one: Document) -> int:
    return sum(step.table is TableName.NAT for step in trace_service(one, one.services[0]).steps)


@pytest.mark.parametrize("scheduler", SERVICES)
def test_the_guide_names_the_price(scheduler: str) -> None:
    cells = [f"{rules:,} ({walk})" for rules, walk in SERVICES[scheduler][2:]]
    kept = [f"{rules:,} ({walk})" for rules, walk in WITH_PERSISTENCE[scheduler][2:]]
    assert f"| {scheduler} | {' | '.join(cells + kept)} |" in GUIDE.read_text()
