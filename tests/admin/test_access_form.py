"""Access rules in the form of a service: lists with a network in each line, and what is wrong with one."""

from typing import Any

import pytest

from balancer.admin.line_lists import name_line, read_lines
from balancer.admin.service_form import ServiceEditor
from balancer.domain.codec import parse_service, service_to_data
from balancer.domain.problem import Problem
from tests.documents import document, service_data

MANY = [f"10.{i // 250}.{i % 250}.0/24" for i in range(5000)]


def filled_in(**fields: Any) -> ServiceEditor:
    """The form of a service with one backend, as a browser sends it."""
    data = {
        "name": "web",
        "interface": "eth0",
        "port": "80",
        "protocol": "tcp",
        "scheduler": "round-robin",
        "source_nat": "masquerade",
        "drop_invalid": "on",
        "backends-TOTAL_FORMS": "1",
        "backends-INITIAL_FORMS": "0",
        "backends-0-address": "10.0.0.3",
        "backends-0-state": "enabled",
    }
    return ServiceEditor(data=data | fields)


def test_lines_become_entries_and_empty_ones_nothing() -> None:
    editor = filled_in(deny="\r\n203.0.113.0/24\r\n\r\n  10.0.0.7  \r\n", new_per_second_per_source="20")
    assert editor.is_well_formed()
    assert editor.to_data()["access"] == {
        "allow": [],
        "deny": ["203.0.113.0/24", "10.0.0.7"],
        "new_per_second_per_source": 20,
        "drop_invalid": True,
        "log_refused": False,
        "syn_proxy": False,
    }


def test_a_syn_proxy_is_a_switch_that_comes_back() -> None:
    editor = filled_in(syn_proxy="on")
    assert editor.is_well_formed()
    saved, problems = parse_service(editor.to_data())
    assert saved is not None, problems
    assert saved.access.syn_proxy
    assert ServiceEditor(initial=service_to_data(saved)).form.initial["syn_proxy"]


def test_what_is_shown_is_what_is_saved() -> None:
    access = {"allow": ["192.0.2.0/24"], "deny": MANY, "new_per_second_per_source": 5, "new_burst": 50}
    limits = {"connections_per_source": 3, "connections_per_backend": 4, "log_refused": True}
    (one,) = document(service_data(access=access | limits)).services
    shown = ServiceEditor(initial=service_to_data(one)).form.initial
    assert shown["deny"].splitlines() == MANY
    fields = {name: str(shown[name]) for name in (*access, *limits) if name != "log_refused"}
    editor = filled_in(**fields, log_refused="on")
    assert editor.is_well_formed()
    saved, problems = parse_service(editor.to_data())
    assert saved is not None, problems
    assert saved.access == one.access


def test_access_is_folded_up_until_something_about_it_is_set_or_wrong() -> None:
    (plain,) = document(service_data()).services
    (limited,) = document(service_data(access={"deny": ["203.0.113.0/24"]})).services
    (lenient,) = document(service_data(access={"drop_invalid": False})).services
    assert not ServiceEditor().limits_access
    assert not ServiceEditor(initial=service_to_data(plain)).limits_access
    assert ServiceEditor(initial=service_to_data(limited)).limits_access
    assert ServiceEditor(initial=service_to_data(lenient)).limits_access
    assert not filled_in().limits_access
    assert filled_in(log_refused="on").limits_access
    wrong = filled_in()
    assert wrong.is_well_formed()
    wrong.show_problems([Problem(code="value", path="access.new_burst", message="No.")])
    assert wrong.limits_access


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"deny": "\n".join([*MANY[:16], "10.0.0.0/99"])}, "deny", "Line 17: A network such as 192.0.2.0/24"),
        ({"deny": "\n\n10.0.0.7/24\n"}, "deny", "Line 3: '10.0.0.7/24' is an address inside of a network"),
        ({"allow": "10.0.0.0/8\n\n2001:db8::/32"}, "allow", "Line 3: 2001:db8::/32 is an IPv6 network"),
        ({"allow": "# our office"}, "allow", "Line 1: '# our office' has a comment"),
        ({"deny": "10.0.0.0/8, 10.1.0.0/16"}, "deny", "Line 1: A network"),
        ({"new_per_second_per_source": "many"}, "new_per_second_per_source", "whole number from 1 to 10000"),
        ({"new_burst": "10"}, "new_burst", "A burst belongs to a number of new connections per second"),
        ({"connections_per_source": "0"}, "connections_per_source", "whole number from 1 to 1000000"),
        ({"connections_per_backend": "-1"}, "connections_per_backend", "whole number from 1 to 1000000"),
        ({"log_refused": "on", "drop_invalid": ""}, "log_refused", "nothing to log"),
        ({"syn_proxy": "on", "protocol": "udp"}, "syn_proxy", "A SYN proxy is for TCP"),
        ({"syn_proxy": "on", "connections_per_source": "5"}, "syn_proxy", "Turn the SYN proxy off"),
    ],
)
def test_what_is_wrong_is_said_at_the_field_with_the_number_of_the_line(
    fields: dict[str, str], field: str, words: str
) -> None:
    editor = filled_in(**fields)
    assert editor.is_well_formed()
    service, problems = parse_service(editor.to_data())
    assert service is None
    editor.show_problems(problems)
    (message,) = editor.form.errors[field]
    assert words in message
    assert set(editor.form.errors) == {field}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"deny": "\n\n10.0.0.7/24\n"}, "Deny list, line 3: '10.0.0.7/24' is an address inside of a network"),
        ({"allow": "10.0.0.0/8\n\n2001:db8::/32"}, "Allow list, line 3: 2001:db8::/32 is an IPv6 network"),
        ({"deny": "10.0.0.0/8\n" * 20_001}, "Deny list: Deny may hold 20000 networks"),
        ({"port": "0"}, "Port must be"),
    ],
)
def test_away_from_the_field_a_mistake_is_told_with_the_list_and_the_line(
    fields: dict[str, str], words: str
) -> None:
    editor = filled_in(**fields)
    assert editor.is_well_formed()
    _, (problem, *_) = parse_service(editor.to_data())
    assert editor.describe(problem).startswith(words)


def test_a_list_that_is_too_long_is_refused_as_a_whole() -> None:
    editor = filled_in(deny="\n".join(["10.0.0.0/8"] * 20_001))
    assert editor.is_well_formed()
    _, problems = parse_service(editor.to_data())
    editor.show_problems(problems)
    assert editor.form.errors["deny"] == ["Deny may hold 20000 networks, not 20001. Join neighbours."]


def test_a_problem_of_the_whole_list_names_no_line() -> None:
    assert name_line(Problem("access.deny", "x", "Too many."), "a\nb") == "Too many."
    assert name_line(Problem("access.deny[7]", "x", "Wrong."), "a\nb") == "Wrong."
    assert read_lines("a\n\n b ,\r\nc") == [(1, "a"), (3, "b"), (4, "c")]
