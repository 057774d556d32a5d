"""The document as JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.codec import document_to_data, dump_document, load_document, parse_document
from balancer.domain.types import Document, Scheduler, SourceNatMode
from tests.documents import backend_data, document, document_data, documents, problems_of, service_data


def test_everything_but_the_essentials_has_its_default() -> None:
    service = document(service_data(backends=[{"address": "10.0.0.3"}])).services[0]
    assert (service.enabled, service.address, service.scheduler) == (True, None, Scheduler.ROUND_ROBIN)
    assert service.source_nat.mode is SourceNatMode.MASQUERADE
    assert service.access.drop_invalid
    backend = service.backends[0]
    assert (backend.port, backend.weight, backend.state, backend.priority) == (80, 1, "enabled", 0)


@given(documents())
def test_a_document_survives_its_own_text(one: Document) -> None:
    again, problems = load_document(dump_document(one))
    assert again == one
    assert all(problem.severity == "warning" for problem in problems)


@given(documents(max_services=5), st.randoms(use_true_random=False))
def test_the_order_of_services_backends_and_keys_does_not_change_the_text(
    one: Document, random: object
) -> None:
    data = document_to_data(one)
    random.shuffle(data["services"])  # type: ignore[attr-defined]
    for service in data["services"]:
        random.shuffle(service["backends"])  # type: ignore[attr-defined]
    shuffled = [dict(reversed(service.items())) for service in data["services"]]
    again, _ = parse_document({"services": shuffled})
    assert again is not None
    assert dump_document(again) == dump_document(one)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 0),
        ("port", 65536),
        ("port", -1),
        ("port", "http"),
        ("port", "80"),
        ("port", True),
        ("port", 80.0),
        ("port", None),
        ("address", "999.1.1.1"),
        ("address", "10.0.0.1/24"),
        ("address", "010.0.0.1"),
        ("address", "0.0.0.0"),
        ("address", "224.0.0.1"),
        ("address", "fe80::1%eth0"),
        ("address", 167772161),
        ("interface", ""),
        ("interface", "abcdefghijklmnop"),
        ("interface", "eth 0"),
        ("interface", "../x"),
        ("interface", ".."),
        ("interface", "$(x)"),
        ("interface", "eth+"),
        ("interface", "-eth0"),
        ("interface", "eth0\n"),
        ("interface", "éth0"),
        ("name", ""),
        ("name", "a" * 64),
        ("name", "web\n"),
        ("name", 'we"b'),
        ("name", "we'b"),
        ("name", "web 😀"),
        ("name", None),
        ("protocol", "icmp"),
        ("protocol", "TCP"),
        ("scheduler", "fastest"),
        ("description", "a\x00b"),
        ("enabled", "yes"),
        ("source_nat", {"mode": "auto"}),
        ("source_nat", "masquerade"),
        ("backends", {}),
        ("backends", ["10.0.0.3"]),
    ],
)
def test_a_bad_value_is_a_problem_of_that_very_field(field: str, value: object) -> None:
    (problem, *_) = problems_of(service_data(**{field: value}))
    assert problem.path.startswith(f"services[0].{field}")
    assert problem.message.endswith(".")
    assert problem.message.isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", 0),
        ("weight", -1),
        ("weight", 1e9),
        ("weight", 1_000_000_000),
        ("weight", 257),
        ("port", 0),
        ("port", 65536),
        ("address", "999.1.1.1"),
        ("address", "127.0.0.1"),
        ("address", "::1"),
        ("address", "2001:db8::3"),
        ("state", "off"),
    ],
)
def test_a_bad_backend_value_names_the_backend_in_the_order_of_the_input(field: str, value: object) -> None:
    backends = [backend_data("10.0.0.9"), backend_data("10.0.0.8"), {**backend_data(), field: value}]
    problems = problems_of(service_data(backends=backends))
    assert [p.path for p in problems] == [f"services[0].backends[2].{field}"]


@pytest.mark.parametrize("missing", ["name", "interface", "protocol", "port"])
def test_what_has_no_default_must_be_given(missing: str) -> None:
    data = service_data()
    del data[missing]
    (problem, *_) = problems_of(data)
    assert (problem.path, problem.code) == (f"services[0].{missing}", "missing")


@pytest.mark.parametrize(
    ("data", "path", "hint"),
    [
        ({**document_data(), "sevices": []}, "sevices", "'services'"),
        (document_data(service_data(backend=[])), "services[0].backend", "'backends'"),
        (
            document_data(service_data(backends=[backend_data(wait=3)])),
            "services[0].backends[0].wait",
            "'weight'",
        ),
        (document_data(service_data(health={"path": "/", "kin": "tcp"})), "services[0].health.kin", "'kind'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_key_that_was_probably_meant(
    data: object, path: str, hint: str
) -> None:
    document_found, problems = parse_document(data)
    assert document_found is None
    assert any(problem.path == path and hint in problem.message for problem in problems)


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '"x"', "", "{", "{]", "\xff", '{"services": NaN}', "[" * 100_000]
)
def test_what_is_not_a_json_object_is_one_clear_problem(text: str) -> None:
    found, problems = load_document(text)
    assert found is None
    assert len(problems) == 1


def test_bytes_that_are_not_text_are_a_problem() -> None:
    assert load_document(b"\xff\xfe\x00")[0] is None


def test_a_key_given_twice_is_refused_because_one_of_the_two_would_be_lost() -> None:
    found, problems = load_document('{"services": [], "services": []}')
    assert found is None
    assert problems[0].code == "duplicate-key"


def test_a_document_of_another_schema_is_refused() -> None:
    found, problems = parse_document({"schema": 2, "services": []})
    assert found is None
    assert problems[0].path == "schema"


def test_all_problems_are_told_at_once() -> None:
    problems = problems_of(service_data(port=0), service_data("b", interface="../x", backends=[{}]))
    assert [p.path for p in problems] == [
        "services[0].port",
        "services[1].interface",
        "services[1].backends[0].address",
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        _containers := lambda children: (
            st.lists(children)
            | st.dictionaries(st.text() | st.sampled_from(["services", "name", "backends", "port"]), children)
        ),
        max_leaves=20,
    )
)
def test_no_json_value_whatever_raises(value: object) -> None:
    found, problems = load_document(json.dumps({"services": [value]}))
    assert (found is None) == any(problem.severity == "error" for problem in problems)
