"""What a document may say about health checks."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.codec import document_to_data, dump_document, load_document
from balancer.domain.health_scalars import read_status_ranges
from balancer.domain.payload import is_payload, payload_bytes
from balancer.domain.types import HealthKind, HttpMethod
from balancer.domain.validation import validate_document
from tests.documents import backend_data, document, problems_of, service_data

HTTP = {"kind": "http"}
UDP = {"kind": "udp"}
OF_HTTP = {
    "method": "HEAD",
    "host": "www.example.net",
    "path": "/health",
    "expect_status": "204",
    "expect_body": "fine",
}
OF_HTTPS = {"certificate_warning_days": 30, "verify_certificate": True}
OF_UDP = {"send": "a", "expect": "b"}
OF_NONE = {"interval": 6, "timeout": 1, "rise": 9, "fall": 9}


def found(health: dict[str, Any], **fields: Any) -> list[tuple[str, str]]:
    return [
        (p.path.removeprefix("services[0]."), p.code)
        for p in problems_of(service_data(health=health, **fields))
    ]


@pytest.mark.parametrize(
    "health",
    [
        {"kind": "tcp", "interval": 1, "timeout": 1, "port": 8080, "address": "127.0.0.1"},
        HTTP | OF_HTTP | {"method": "OPTIONS", "port": 1},
        {"kind": "https", "host": "[2001:db8::1]:8443"} | OF_HTTPS,
        UDP | {"send": r"\x00\xFF\\ \r\n\t", "expect": "x"},
        {"kind": "icmp", "address": "2001:db8::9"},
        {"kind": "passive", "interval": 1, "rise": 1, "fall": 1},
    ],
)
def test_every_kind_goes_in_and_comes_out(health: dict[str, Any]) -> None:
    value = document(service_data(health=health))

    (data,) = document_to_data(value)["services"]

    assert data["health"].items() >= health.items()
    assert load_document(dump_document(value))[0] == value


def test_a_service_without_checks_has_no_later_key() -> None:
    (data,) = document_to_data(document(service_data()))["services"]

    assert sorted(data["health"]) == sorted(
        ["kind", "interval", "timeout", "rise", "fall", "port", "path", "expect_status"]
    )


BAD: dict[str, tuple[object, ...]] = {
    "kind": ("", "TCP", "smtp", None, 1),
    "interval": (0, 3601, 1.5, "5", True, None),
    "timeout": (0, 3601, "2", None),
    "rise": (0, 101, -1),
    "fall": (0, 101, "3"),
    "port": (0, 65536, "80", True),
    "address": ("0.0.0.0", "::", "224.0.0.1", "fe80::1", "a.example", 1, "10.0.0.1/8"),
    "method": ("get", "POST", "DELETE", "GET /\r\nX:", None),
    "host": ("a b", "a\r\nX: y", "a/b", "a\n", "b\u00e9", "x" * 254, ":80", "[::1", 1),
    "path": ("", "status", "/a b", "/\r\n", "/\u00e9", "/" + "x" * 1024, None),
    "expect_status": ("", "ok", "600", "99", "200-", "399-200", "200;301", ",".join(["200"] * 60)),
    "expect_body": ("x" * 201, "a\nb", "\x00", "\ud800", None, 5),
    "certificate_warning_days": (-1, 366, "14", None),
    "verify_certificate": (0, "yes", None),
    "send": ("\\q", "\\", "\\x0", "\\xgg", "a\n", "\u00e9", "a" * 513, None),
    "expect": ("\\", "\x00", 1),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_bad_value_is_told_at_its_key(key: str, value: object) -> None:
    (problem,) = problems_of(service_data(health={"kind": "https", key: value}))

    assert problem.path == f"services[0].health.{key}"
    assert problem.message.endswith(".")
    assert problem.message.isprintable()
    json.dumps(problem.message).encode()


@pytest.mark.parametrize(
    ("kind", "unused"),
    [
        ("none", OF_NONE | OF_HTTP | OF_HTTPS | OF_UDP | {"port": 1, "address": "10.0.0.9"}),
        ("tcp", OF_HTTP | OF_HTTPS | OF_UDP),
        ("http", OF_HTTPS | OF_UDP),
        ("https", OF_UDP),
        ("udp", OF_HTTP | OF_HTTPS),
        ("icmp", OF_HTTP | OF_HTTPS | OF_UDP | {"port": 1}),
        ("passive", OF_HTTP | OF_HTTPS | OF_UDP | {"port": 1, "address": "10.0.0.9", "timeout": 1}),
    ],
)
def test_what_a_kind_does_not_use_is_refused_and_never_ignored(kind: str, unused: dict[str, Any]) -> None:
    for key, value in unused.items():
        problems = problems_of(service_data(health={"kind": kind, key: value}))
        assert [(p.path, p.code) for p in problems] == [(f"services[0].health.{key}", "unused")]
        assert key.replace("_", " ") in problems[0].message


def test_laws_between_keys_name_the_one_to_change() -> None:
    assert found({"kind": "tcp", "interval": 1, "timeout": 2}) == [("health.timeout", "range")]
    assert found(HTTP | {"method": "HEAD", "expect_body": "x"}) == [("health.expect_body", "unused")]
    assert found({"kind": "passive"}, protocol="udp") == [("health.kind", "protocol")]
    assert found({"kind": "passive"}, protocol="sctp") == [("health.kind", "protocol")]
    assert found({"kind": "udp"}, protocol="tcp") == []
    assert found({"kind": "passive", "interval": 8}) == []
    assert found({"kind": "passive", "interval": 9}) == [("health.interval", "range")]


def test_passive_checks_warn_where_answers_may_take_another_way() -> None:
    sent = {"health": {"kind": "passive"}, "source_nat": {"mode": "none"}}

    (found,) = validate_document(document(service_data(**sent)))

    assert (found.path, found.code, found.severity) == ("services[0].health.kind", "one-way", "warning")


def test_a_backend_that_is_another_service_is_warned_of_as_its_checks_could_find_it_up() -> None:
    inner = service_data("inner", address="192.0.2.9", port=80, port_end=89, from_node=True)
    outer = service_data("outer", port=81, backends=[backend_data("192.0.2.9", port=85)])

    (found,) = validate_document(document(inner, outer))

    assert (found.path, found.code, found.severity) == (
        "services[1].backends[0].address",
        "service",
        "warning",
    )
    other = outer | {"backends": [backend_data("192.0.2.9", port=90)]}
    assert validate_document(document(inner, other)) == ()


def test_every_kind_and_method_is_known_to_the_document() -> None:
    assert {found({"kind": str(kind)}) == [] for kind in HealthKind} == {True}
    assert {found(HTTP | {"method": str(method)}) == [] for method in HttpMethod} == {True}


def test_status_ranges_are_read_as_they_are_written() -> None:
    assert read_status_ranges("200-299,301") == ((200, 299), (301, 301))


def test_a_payload_holds_any_byte() -> None:
    assert payload_bytes(r"PING\r\n\x00\xfF\\x") == b"PING\r\n\x00\xff\\x"
    assert payload_bytes("") == b""


@given(st.binary(max_size=128))
def test_all_bytes_can_be_written_as_a_payload(wanted: bytes) -> None:
    text = "".join(f"\\x{byte:02x}" for byte in wanted)

    assert is_payload(text)
    assert payload_bytes(text) == wanted
