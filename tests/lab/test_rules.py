"""What the compiled rules do to real connections, in both flavours."""

import random
from collections.abc import Sequence
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import Any

import pytest

from balancer.domain.types import Document
from balancer.lab.topology import Lab
from balancer.lab.traffic import list_sources, open_connections, send_datagrams
from tests.chance import CHANCE, p_of_counts
from tests.documents import backend_data, document, service_data
from tests.lab.rules import load_document, restore
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel

BALANCER = "10.0.0.1"
MASQUERADED = {BALANCER}


def weighted(weights: Sequence[int], **fields: Any) -> Document:
    backends = [backend_data(f"10.0.0.{3 + i}", weight=weight) for i, weight in enumerate(weights)]
    return document(service_data(backends=backends, **fields))


def expected_counts(weights: Sequence[int], cycles: int, port: int = 80) -> dict[str, int]:
    return {f"10.0.0.{3 + i}:{port}": weight // gcd(*weights) * cycles for i, weight in enumerate(weights)}


def sample_weights() -> list[list[int]]:
    chosen = random.Random(20181002)
    vectors = [[chosen.randint(1, 10) for _ in range(count)] for count in range(1, 13)]
    return [[1, 1, 1, 1], [3, 1, 1, 1], [4, 4], [10] * 12, *vectors]


@pytest.mark.parametrize("weights", sample_weights(), ids=lambda weights: ":".join(map(str, weights)))
def test_round_robin_is_exact_over_whole_cycles(lab: Lab, flavour: str, weights: list[int]) -> None:
    load_document(lab=lab, flavour=flavour, document=weighted(weights))
    expected = expected_counts(weights, cycles=3)
    report = open_connections(lab=lab, address=BALANCER, port=80, count=sum(expected.values()))
    assert sorted(report.answered.items()) == sorted(expected.items())
    assert set(report.peers) == MASQUERADED


def test_round_robin_is_exact_for_concurrent_connections_too(lab: Lab, flavour: str) -> None:
    load_document(lab=lab, flavour=flavour, document=weighted([3, 1, 1, 1]))
    report = open_connections(lab=lab, address=BALANCER, port=80, count=396, concurrency=16)
    assert report.answered == expected_counts([3, 1, 1, 1], cycles=66)


def test_round_robin_counts_udp_flows_like_connections(lab: Lab, flavour: str) -> None:
    load_document(lab=lab, flavour=flavour, document=weighted([2, 3, 5], protocol="udp", port=53))
    report = send_datagrams(lab=lab, address=BALANCER, port=53, count=1000)
    assert sorted(report.answered.items()) == sorted(expected_counts([2, 3, 5], cycles=100, port=53).items())


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [1, 2, 3, 4, 10]], ids=["equal", "weighted"])
def test_random_passes_chi_square_over_five_thousand_flows(
    lab: Lab, flavour: str, weights: list[int]
) -> None:
    one = weighted(weights, protocol="udp", port=53, scheduler="random")
    load_document(lab=lab, flavour=flavour, document=one)
    report = send_datagrams(lab=lab, address=BALANCER, port=53, count=5000)
    assert report.lost_total == 0
    shares = {f"10.0.0.{3 + i}:53": Fraction(weight, sum(weights)) for i, weight in enumerate(weights)}
    assert set(report.answered) == set(shares)
    assert p_of_counts(report.answered, shares) > CHANCE


def test_without_source_nat_the_backends_see_the_clients(lab: Lab, flavour: str) -> None:
    sources = list_sources(lab=lab, count=4)
    for mode, seen in (("none", set(sources)), ("masquerade", MASQUERADED)):
        load_document(lab=lab, flavour=flavour, document=weighted([1, 1], source_nat={"mode": mode}))
        report = open_connections(lab=lab, address=BALANCER, port=80, count=8, sources=sources)
        assert report.lost_total == 0
        assert set(report.peers) == seen


def test_the_way_back_of_the_backends_leads_through_the_balancer_that_the_lab_names(
    prefix: str, records: Path, flavour: str
) -> None:
    one = weighted([1, 1], source_nat={"mode": "none"})
    with Lab(prefix=prefix, records=records, gateway="lb2") as lab:
        load_document(lab=lab, flavour=flavour, document=one, machine="lb2")
        sources = list_sources(lab=lab, count=4)
        report = open_connections(lab=lab, address="10.0.0.2", port=80, count=8, sources=sources)
        assert (report.lost_total, set(report.peers)) == (0, set(sources))


@pytest.mark.parametrize("state", ["no backend at all", "draining", "disabled"])
def test_a_service_without_a_usable_backend_refuses_at_once(lab: Lab, flavour: str, state: str) -> None:
    """Also where the balancer itself listens on that port, as it does here on 9090."""
    backends = [] if state == "no backend at all" else [backend_data(state=state)]
    load_document(lab=lab, flavour=flavour, document=document())
    assert open_connections(lab=lab, address=BALANCER, port=9090, count=1).answered == {f"{BALANCER}:9090": 1}
    services = [
        service_data(f"empty-{protocol}", protocol=protocol, port=9090, backends=backends)
        for protocol in ("tcp", "udp")
    ]
    load_document(lab=lab, flavour=flavour, document=document(*services))
    watch = Stopwatch()
    connections = open_connections(lab=lab, address=BALANCER, port=9090, count=8)
    assert connections.refused == 8
    assert connections.slowest < 1 + watch.stalled
    # The kernel sends each client no more than a few of these messages at once (icmp_ratelimit, icmp(7)).
    sources = list_sources(lab=lab, count=4)
    flows = send_datagrams(lab=lab, address=BALANCER, port=9090, count=4, sources=sources)
    assert flows.refused == 4
    assert flows.slowest < 1 + watch.stalled


def test_a_refused_service_stays_refused_where_the_policies_drop(lab: Lab, flavour: str) -> None:
    load_document(lab=lab, flavour=flavour, document=document(service_data(backends=[])))
    for chain in ("INPUT", "FORWARD"):
        lab.run(machine="lb1", command=[f"iptables-{flavour}", "-w", "5", "-P", chain, "DROP"])
    watch = Stopwatch()
    report = open_connections(lab=lab, address=BALANCER, port=80, count=4)
    assert report.refused == 4
    assert report.slowest < 1 + watch.stalled


def test_other_ports_and_transit_traffic_are_left_as_they_were(lab: Lab, flavour: str) -> None:
    load_document(lab=lab, flavour=flavour, document=weighted([1, 1]))
    sources = list_sources(lab=lab, count=3)
    own = open_connections(lab=lab, address=BALANCER, port=8080, count=3, sources=sources)
    assert (own.answered, set(own.peers)) == ({f"{BALANCER}:8080": 3}, set(sources))
    # The service's own port, but on the way to another machine: routed, not balanced.
    for port in (80, 8080):
        transit = open_connections(lab=lab, address="10.0.0.99", port=port, count=3, sources=sources)
        assert (transit.answered, set(transit.peers)) == ({f"10.0.0.99:{port}": 3}, set(sources))
    flows = send_datagrams(lab=lab, address="10.0.0.99", port=53, count=3, sources=sources)
    assert (flows.answered, set(flows.peers)) == ({"10.0.0.99:53": 3}, set(sources))


def test_balanced_connections_pass_a_forward_chain_that_drops(lab: Lab, flavour: str) -> None:
    one = document(service_data(), service_data("dns", protocol="udp", port=53, source_nat={"mode": "none"}))
    load_document(lab=lab, flavour=flavour, document=one)
    lab.run(machine="lb1", command=[f"iptables-{flavour}", "-w", "5", "-P", "FORWARD", "DROP"])
    assert open_connections(lab=lab, address=BALANCER, port=80, count=8).lost_total == 0
    assert send_datagrams(lab=lab, address=BALANCER, port=53, count=8).lost_total == 0
    transit = open_connections(lab=lab, address="10.0.0.99", port=80, count=2, concurrency=2, timeout=0.3)
    assert transit.timed_out == 2


def test_a_service_with_an_address_is_balanced_at_that_address_alone(lab: Lab, flavour: str) -> None:
    outside = str(lab.address(balancer="lb1"))
    load_document(lab=lab, flavour=flavour, document=document(service_data(address=outside)))
    assert open_connections(lab=lab, address=outside, port=80, count=4).answered == {
        f"10.0.0.{last}:80": 1 for last in (3, 4, 5, 6)
    }
    elsewhere = open_connections(lab=lab, address=BALANCER, port=80, count=4)
    assert elsewhere.answered == {f"{BALANCER}:80": 4}


def test_an_empty_document_balances_nothing(lab: Lab, flavour: str) -> None:
    load_document(lab=lab, flavour=flavour, document=document())
    assert open_connections(lab=lab, address=BALANCER, port=80, count=4).answered == {f"{BALANCER}:80": 4}


def test_loading_a_document_over_another_leaves_nothing_of_the_first(lab: Lab) -> None:
    load_document(lab=lab, flavour="legacy", document=weighted([1]))
    load_document(lab=lab, flavour="nft", document=document())
    for flavour in ("legacy", "nft"):
        saved = lab.run(machine="lb1", command=[f"iptables-{flavour}-save"])
        assert "LB-S-" not in saved
    restore(lab=lab, flavour="nft", text="*filter\nCOMMIT\n*nat\nCOMMIT\n")
    assert "LB-" not in lab.run(machine="lb1", command=["iptables-nft-save"])
