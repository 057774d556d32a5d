"""The SYN proxy of a service: what it is for, and which services cannot both have one."""

from typing import Any

import pytest

from tests.documents import document, problems_of, service_data

ON = {"access": {"syn_proxy": True}}


@pytest.mark.parametrize("value", ["yes", 1, None, [], {}, "true\n"])
def test_it_is_on_or_off(value: Any) -> None:
    (problem,) = problems_of(service_data(access={"syn_proxy": value}))
    assert (problem.path, problem.code) == ("services[0].access.syn_proxy", "type")


@pytest.mark.parametrize("protocol", ["udp", "sctp"])
def test_it_is_for_tcp(protocol: str) -> None:
    (problem,) = problems_of(service_data(protocol=protocol, **ON))
    assert (problem.path, problem.code) == ("services[0].access.syn_proxy", "syn-proxy-tcp")
    assert protocol in problem.message


def test_documents_without_it_keep_their_bytes() -> None:
    (service,) = document(service_data()).services
    assert not service.access.syn_proxy


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"interface": "eth0"}, {"interface": "eth1"}),
        ({"interface": "eth0", "address": "203.0.113.1"}, {"interface": "eth1", "address": "203.0.113.1"}),
        ({"interface": "eth0"}, {"interface": "eth1", "address": "203.0.113.1"}),
        ({"interface": "eth1", "address": "203.0.113.1"}, {"interface": "eth0"}),
        ({"interface": "eth0"}, {"interface": "eth1", "port": 70, "port_end": 90}),
        (
            {"interface": "eth0", "additional_interfaces": ["eth1"]},
            {"interface": "eth1", "address": "203.0.113.1"},
        ),
    ],
)
def test_two_that_only_their_interfaces_tell_apart_cannot_both_have_one(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = service_data("a", **one, **ON), service_data("b", **other, **ON)
    (problem,) = problems_of(first, second)
    assert problem.path in {"services[0].access.syn_proxy", "services[1].access.syn_proxy"}
    assert problem.code == "overlap-syn-proxy"
    assert "'a'" in problem.message
    assert "'b'" in problem.message
    assert problems_of(first, second | {"access": {}}) == ()


@pytest.mark.parametrize(
    "other",
    [
        {"interface": "eth1", "port": 81},
        {"interface": "eth0", "address": "203.0.113.1"},
        {"interface": "eth0", "additional_interfaces": ["eth1"], "address": "203.0.113.1"},
    ],
)
def test_others_can(other: dict[str, Any]) -> None:
    assert problems_of(service_data("a", **ON), service_data("b", **other, **ON)) == ()


@pytest.mark.parametrize("limit", ["connections_per_source", "connections_per_backend"])
def test_its_connections_cannot_be_counted(limit: str) -> None:
    (problem,) = problems_of(service_data(access={"syn_proxy": True, limit: 5}))
    assert (problem.path, problem.code) == ("services[0].access.syn_proxy", "syn-proxy-limits")
    assert limit in problem.message
