"""Who is sent where by a rehearsal: pure, so it runs everywhere."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice

import pytest
from hypothesis import given, settings

from balancer.domain.limits import HASH_SLOTS
from balancer.domain.types import Document, Family
from balancer.lab.crowd import Crowd, routes_to
from balancer.lab.fake import FakeRehearsals
from balancer.lab.judge import Expectation, judge_again
from balancer.lab.places import Place, asked_ports, list_own_places, list_places, spread
from balancer.lab.rehearsal import Limits
from balancer.lab.rehearse import compile_families
from balancer.lab.sample import draw_sample, fit_lab
from balancer.lab.summary import describe_tour
from balancer.lab.visit import Visit
from balancer.lab.visitor import Tour
from balancer.ruleset.compile import compile_document
from balancer.ruleset.matching import Packet
from balancer.ruleset.parts import backend_of, part_of
from balancer.ruleset.schedulers import promised_shares
from balancer.ruleset.trace import trace_packet
from tests.documents import any_documents, backend_data, document, service_data

BACKENDS = {Family.IPV4: "10.0.0.{}", Family.IPV6: "2001:db8:2::{}"}


def hashed(family: Family) -> Document:
    backends = [backend_data(BACKENDS[family].format(n), weight=n) for n in range(3, 7)]
    return document(service_data(scheduler="source-hash", backends=backends))


def crowd(family: Family, one: Document | None = None) -> Crowd:
    one = one or hashed(family)
    return fit_lab(document=one, services=one.services).crowds[family]


@pytest.mark.parametrize("family", list(Family))
def test_of_each_part_of_all_clients_there_is_one_and_the_tracer_sends_it_to_the_same_backend(
    family: Family,
) -> None:
    one = hashed(family)
    (service,) = one.services
    clients = crowd(family).of_each_part(prefix=32 if family is Family.IPV4 else 128)
    assert sorted(map(part_of, clients)) == list(range(HASH_SLOTS))
    ruleset = compile_document(one, family=family)
    for client in clients[::16]:
        packet = Packet(
            interface="eth0",
            protocol=service.protocol,
            source=client,
            destination=IPv4Address("192.0.2.1") if family is Family.IPV4 else IPv6Address("2001:db8::1"),
            port=80,
        )
        assert set(trace_packet(ruleset, packet).shares) == {backend_of(client, service.backends).endpoint}


@pytest.mark.parametrize(
    ("family", "prefix", "count"),
    [
        (Family.IPV4, 32, 500),
        (Family.IPV4, 24, 500),
        (Family.IPV4, 8, 222),
        (Family.IPV6, 128, 500),
        (Family.IPV6, 64, 500),
        (Family.IPV6, 32, 500),
        (Family.IPV6, 8, 32),
    ],
)
def test_clients_that_are_apart_share_no_network_and_are_nobodys(
    family: Family, prefix: int, count: int
) -> None:
    some = crowd(family)
    clients = list(islice(some.apart(prefix=prefix), 500))
    assert len(clients) == count
    networks = {ip_network(f"{client}/{prefix}", strict=False) for client in clients}
    assert len(networks) == count
    for client in clients:
        neighbour = some.neighbour(client, prefix=prefix)
        assert neighbour in ip_network(f"{client}/{prefix}", strict=False)
        assert (neighbour == client) is (prefix == client.max_prefixlen)
        for one in (client, neighbour):
            assert not one.is_loopback | one.is_multicast | one.is_unspecified
            assert not any(first <= int(one) <= last for first, last in some.taken)


def test_clients_keep_out_of_what_a_document_names() -> None:
    pool = {"mode": "snat", "address": "198.20.0.0", "address_end": "223.255.255.255"}
    one = document(service_data(address="198.19.0.2", source_nat=pool))
    clients = list(islice(crowd(Family.IPV4, one).apart(prefix=16), 500))
    assert len(clients) == 500
    assert max(clients) < ip_address("198.20.0.0")
    assert ip_address("198.19.0.2") not in clients


def test_a_machine_speaks_from_many_addresses_with_few_routes() -> None:
    clients = [IPv4Address("198.18.128.0") + n for n in range(256)] + [IPv4Address("1.2.3.4")]
    assert routes_to(clients) == [
        "route replace local 1.2.3.4/32 dev lo",
        "route replace local 198.18.128.0/24 dev lo",
    ]


def test_every_interface_address_and_end_of_a_range_is_a_place() -> None:
    one = document(
        service_data(
            address="203.0.113.1",
            additional_addresses=["203.0.113.2"],
            additional_interfaces=["eth1"],
            port_end=90,
            additional_ports=["443", "8000-8001"],
        )
    )
    (service,) = one.services
    assert asked_ports(service) == (80, 85, 90, 443, 8000, 8001)
    places = list_places(service, own=lambda _: IPv4Address("198.18.2.1"))
    assert len(set(places)) == 2 * 2 * 6
    assert len(list_own_places(places)) == 2 * 6
    assert str(places[0]) == "203.0.113.1:80 on eth0"
    for count in (4, 24, 100):
        visited = spread(places, count=count)
        assert len(visited) == count
        assert {place.interface for place in visited} == {"eth0", "eth1"}
        assert count < len(places) or set(visited) == set(places)


def test_more_ports_than_are_asked_are_thinned_out_evenly_and_the_first_is_among_them() -> None:
    (service,) = document(service_data(port=3, additional_ports=[str(n) for n in range(5, 305, 2)])).services
    ports = asked_ports(service)
    assert len(ports) == 12
    assert ports[0] == 3
    assert max(ports) > 250


def test_a_client_that_comes_again_and_gets_another_backend_is_named() -> None:
    place = Place(interface="eth0", address=IPv4Address("203.0.113.1"), port=80)

    def visit(source: str, endpoint: str | None, word: str = "198.18.1.1") -> Visit:
        return Visit(source=source, place=place, backend=endpoint, endpoint=endpoint, word=word)

    first = visit("198.18.128.1", "10.0.0.3:80")
    other = visit("198.18.128.1", "10.0.0.4:80")
    lost = visit("198.18.128.1", None, "timed out")
    assert judge_again([(first, first)]) == []
    assert judge_again([(first, first), (first, other), (first, lost)]) == [
        "2 of 3 clients that came again did not get the backend that they had: 198.18.128.1 got 10.0.0.4:80"
        " after 10.0.0.3:80, 198.18.128.1 got timed out after 10.0.0.3:80."
    ]


def test_what_the_lab_cannot_do_is_left_out_with_the_reason() -> None:
    one = document(
        service_data("cells", protocol="sctp"),
        service_data("inner", port=81, additional_interfaces=["lo"]),
        service_data("own", port=82, source_nat={"mode": "snat", "address": "10.0.0.4"}),
        service_data("web", port=83),
    )
    sample = draw_sample(document=one, touched=None, limits=Limits())
    assert [(o.name, o.reason) for o in sample.omitted] == [
        ("cells", "the lab cannot speak SCTP"),
        ("inner", "the lab cannot have an interface lo"),
        ("own", "its source NAT uses the address of a backend"),
    ]


def test_services_on_more_interfaces_than_the_lab_has_room_for_are_left_out() -> None:
    many = [
        service_data(f"s{n}", interface=f"a{n}", additional_interfaces=[f"b{n}.{k}" for k in range(29)])
        for n in range(5)
    ]
    sample = draw_sample(document=document(*many), touched=None, limits=Limits())
    assert len(sample.measured) == 3
    assert [o.reason for o in sample.omitted] == ["not in the sample"] * 2


@given(one=any_documents())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_the_rehearsal_in_memory_passes_arbitrary_documents(one: Document) -> None:
    touched = {service.name for service in one.services}
    result = FakeRehearsals()(document=one, rulesets=compile_families(one), touched=touched)
    assert result.passed, [s.verdict for s in result.services if not s.passed]


def test_persistence_that_is_too_short_to_be_measured_is_not_called_measured() -> None:
    one = document(service_data(persistence={"mode": "source", "timeout": 1}))
    (service,) = one.services
    shares = promised_shares(service)
    expected = Expectation(service=service, shares=shares, exact=False, chance=None, balancer="198.18.1.1")
    text = describe_tour(expected=expected, tour=Tour(places=(), planned=0))
    assert text.endswith(" Persistence was not measured: clients are kept for 1 s only.")
