"""What happens when all backends are down, as it is written in a document: which policies make sense."""

from typing import Any

import pytest

from balancer.domain.codec import parse_service
from balancer.domain.problem import errors
from tests.documents import backend_data, document, problems_of, service_data

TCP = {"kind": "tcp"}
TO_SORRY = {"health": TCP, "all_down": "service", "all_down_service": "sorry"}


def sorry(**fields: Any) -> dict[str, Any]:
    return service_data("sorry", **{"port": 8080, **fields})


def problem_of(*services: dict[str, Any]) -> tuple[str, str]:
    (problem,) = problems_of(*services)
    return problem.path, problem.code


@pytest.mark.parametrize(
    ("fields", "path", "code"),
    [
        ({"all_down": "refuse"}, "all_down", "unused"),
        ({"healthy_min": 10}, "healthy_min", "unused"),
        ({"health": TCP, "all_down": "service"}, "all_down_service", "missing"),
        ({"health": TCP, "all_down": "refuse", "all_down_service": "sorry"}, "all_down_service", "unused"),
        ({"health": TCP, "all_down": "somewhere"}, "all_down", "choice"),
        ({"health": TCP, "healthy_min": -1}, "healthy_min", "range"),
        ({"health": TCP, "healthy_min": 101}, "healthy_min", "range"),
        ({"health": TCP, "healthy_min": "half"}, "healthy_min", "range"),
        ({"health": TCP, "all_down": "service", "all_down_service": 5}, "all_down_service", "name"),
        ({"health": TCP, "all_down": "service", "all_down_service": "a b"}, "all_down_service", "name"),
        (TO_SORRY | {"all_down_service": "web"}, "all_down_service", "loop"),
        (TO_SORRY | {"all_down_service": "nobody"}, "all_down_service", "unknown"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_at_its_field(
    fields: dict[str, Any], path: str, code: str
) -> None:
    problem = problem_of(sorry(), service_data("web", **fields))
    assert problem == (f"services[1].{path}", code)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"enabled": False}, "disabled"),
        ({"protocol": "udp"}, "protocol"),
        ({"backends": [backend_data("2001:db8::1")]}, "family"),
        ({"port_end": 8090}, "ports"),
        ({"additional_ports": ["443"]}, "ports"),
    ],
)
def test_a_service_that_cannot_take_the_connections_of_another_is_refused(
    fields: dict[str, Any], code: str
) -> None:
    assert problem_of(sorry(**fields), service_data("web", **TO_SORRY)) == (
        "services[1].all_down_service",
        code,
    )


def test_a_service_with_several_ports_can_stand_in_for_those_that_it_has() -> None:
    one = service_data("web", port=8082, **TO_SORRY)
    assert problems_of(sorry(port_end=8090, interface="eth1"), one) == ()


def test_services_that_stand_in_for_each_other_in_a_circle_are_refused() -> None:
    def stands(name: str, port: int, other: str) -> dict[str, Any]:
        return service_data(name, port=port, health=TCP, all_down="service", all_down_service=other)

    circle = [stands("a", 1, "b"), stands("b", 2, "c"), stands("c", 3, "a")]
    found = problems_of(*circle)

    assert [(p.path, p.code) for p in found] == [
        (f"services[{number}].all_down_service", "loop") for number in range(3)
    ]
    assert problems_of(*circle[:2], service_data("c", port=3)) == ()


def test_one_service_alone_can_be_read_before_the_one_that_it_names() -> None:
    service, problems = parse_service(service_data("web", **TO_SORRY))
    assert service is not None
    assert errors(problems) == ()


def test_the_later_keys_are_written_only_where_they_say_something() -> None:
    found = document(sorry(), service_data("web", **TO_SORRY, healthy_min=20)).services
    assert (found[1].all_down_service, found[1].healthy_min) == ("sorry", 20)
