"""What a document must obey as a whole."""

import pytest

from balancer.domain.codec import parse_document
from balancer.domain.limits import round_robin_slots
from balancer.domain.problem import warnings
from balancer.domain.validation import validate_document
from tests.documents import backend_data, document, document_data, problems_of, service_data


def test_two_services_on_one_interface_address_protocol_and_port_are_refused() -> None:
    problems = problems_of(service_data("a"), service_data("b"))
    assert [(p.path, p.code) for p in problems] == [("services[1].port", "overlap")]
    assert "'a'" in problems[0].message


@pytest.mark.parametrize(
    "other",
    [
        {"interface": "eth1"},
        {"protocol": "udp"},
        {"port": 81},
        {"address": "203.0.113.1"},
    ],
)
def test_services_that_differ_in_one_part_of_the_endpoint_live_together(other: dict[str, object]) -> None:
    assert problems_of(service_data("a"), service_data("b", **other)) == ()


def test_names_are_unique() -> None:
    problems = problems_of(service_data("a"), service_data("a", port=81))
    assert [(p.path, p.code) for p in problems] == [("services[1].name", "duplicate")]


def test_a_backend_that_is_the_service_itself_is_refused() -> None:
    backends = [backend_data("10.0.0.9"), backend_data("10.0.0.1", port=80)]
    problems = problems_of(service_data(address="10.0.0.1", backends=backends))
    assert [(p.path, p.code) for p in problems] == [("services[0].backends[1].address", "loop")]


def test_the_service_address_on_another_port_is_a_fine_backend_address() -> None:
    backends = [backend_data("10.0.0.1", port=81)]
    assert problems_of(service_data(address="10.0.0.1", backends=backends)) == ()


def test_a_backend_given_twice_is_refused() -> None:
    problems = problems_of(service_data(backends=[backend_data(), backend_data(port=80)]))
    assert [(p.path, p.code) for p in problems] == [("services[0].backends[1].address", "duplicate")]


def test_an_ipv6_backend_in_an_ipv4_service_is_refused() -> None:
    backends = [backend_data(), backend_data("2001:db8::3")]
    problems = problems_of(service_data(address="203.0.113.1", backends=backends))
    assert [(p.path, p.code) for p in problems] == [("services[0].backends[1].address", "family")]


def test_1024_backends_are_accepted_and_1025_are_not() -> None:
    backends = [backend_data(f"10.0.{i // 250}.{i % 250 + 1}") for i in range(1025)]
    assert problems_of(service_data(backends=backends[:1024])) == ()
    problems = problems_of(service_data(backends=backends))
    assert [(p.path, p.code) for p in problems] == [("services[0].backends", "too-many")]


def test_a_round_robin_that_counts_too_far_is_refused_with_a_way_out() -> None:
    backends = [backend_data(f"10.0.0.{i}", weight=256 - i) for i in range(2, 8)]
    (problem,) = problems_of(service_data(backends=backends))
    assert problem.path == "services[0].scheduler"
    assert "random" in problem.message
    assert problems_of(service_data(backends=backends, scheduler="random")) == ()


def test_weights_with_a_common_divisor_make_a_short_round() -> None:
    assert round_robin_slots((10, 20, 30)) == 6
    assert round_robin_slots(()) == 0


def test_an_ipv6_service_is_valid_with_and_without_an_address() -> None:
    backends = [backend_data("2001:db8::3"), backend_data("fd00::4")]
    assert problems_of(service_data(address="2001:db8::1", backends=backends)) == ()
    assert problems_of(service_data(backends=backends)) == ()
    assert problems_of(service_data(address="::1", backends=backends)) == ()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("fe80::1", "is link-local"),
        ("ff02::1", "multicast"),
        ("::ffff:10.0.0.3", "write ::ffff:a00:3 as IPv4 address"),
        ("::10.0.0.3", "IPv4 address in IPv6 spelling"),
    ],
)
def test_ipv6_addresses_that_no_network_routes_are_refused(address: str, words: str) -> None:
    of_service = problems_of(service_data(address=address, backends=[]))
    of_backend = problems_of(service_data(backends=[backend_data(address)]))
    assert [p.path for p in of_service] == ["services[0].address"]
    assert [p.path for p in of_backend] == ["services[0].backends[0].address"]
    assert words in of_service[0].message
    assert words in of_backend[0].message


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"port_end": 79}, "port_end"),
        ({"source_nat": {"mode": "snat"}}, "source_nat.address"),
        ({"source_nat": {"mode": "none", "address": "10.0.0.1"}}, "source_nat.address"),
        ({"health": {"interval": 1, "timeout": 5}}, "health.timeout"),
        ({"access": {"deny": ["192.0.2.1/24"]}}, "access.deny[0]"),
        ({"health": {"path": "no-slash"}}, "health.path"),
        ({"health": {"expect_status": "700"}}, "health.expect_status"),
    ],
)
def test_all_keys_are_validated_from_the_start(fields: dict[str, object], path: str) -> None:
    assert f"services[0].{path}" in {p.path for p in problems_of(service_data(**fields))}


@pytest.mark.parametrize(
    "backends",
    [[], [{"address": "10.0.0.3", "state": "draining"}], [{"address": "10.0.0.3", "state": "disabled"}]],
)
def test_a_service_without_a_usable_backend_is_allowed_with_a_warning(backends: list[object]) -> None:
    found, problems = parse_document(document_data(service_data(backends=backends)))
    assert found is not None
    assert [(p.path, p.code) for p in warnings(problems)] == [("services[0].backends", "no-backend")]


def test_a_document_can_be_asked_again_later() -> None:
    assert validate_document(document(service_data())) == ()


def test_ten_thousand_services_are_checked_without_comparing_all_with_all() -> None:
    found, _ = parse_document(document_data(*(service_data(f"s{i}", port=i + 1) for i in range(10_000))))
    assert found is not None


def test_services_of_both_families_may_have_one_port_at_any_address() -> None:
    ipv4 = service_data("web", backends=[backend_data("10.0.0.3")])
    ipv6 = service_data("web6", backends=[backend_data("2001:db8::3")])
    assert problems_of(ipv4, ipv6) == ()
    twice = service_data("web7", backends=[backend_data("2001:db8::4")])
    assert [p.code for p in problems_of(ipv4, ipv6, twice)] == ["overlap"]


def test_ports_are_moved_only_where_the_node_chooses_the_source_port() -> None:
    backends = [backend_data("10.0.0.3", port=5000)]
    (problem,) = problems_of(
        service_data(port=8000, port_end=8009, source_nat={"mode": "none"}, backends=backends)
    )
    assert (problem.path, problem.code) == ("services[0].backends[0].port", "moved-unseen")
    assert "masquerade" in problem.message
    for allowed in ({"source_nat": {"mode": "masquerade"}}, {"port_end": None}):
        fields = {"port": 8000, "port_end": 8009, "source_nat": {"mode": "none"}, "backends": backends}
        assert problems_of(service_data(**fields | allowed)) == ()
