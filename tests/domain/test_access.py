"""Who may begin connections, as a document says it: what is read, what is refused, and with which words."""

from typing import Any

import pytest

from balancer.domain.codec import document_to_data, dump_document, load_document, parse_document
from balancer.domain.diff import diff_services
from balancer.domain.limits import BURST_SECONDS, MAX_NETWORKS, burst_of, rate_of_kernel
from balancer.domain.problem import Severity, errors
from tests.documents import backend_data, document, document_data, problems_of, service_data

MANY = [f"10.{i // 250}.{i % 250}.0/24" for i in range(10_000)]


def access(**fields: Any) -> dict[str, Any]:
    return service_data(access=fields)


def test_lists_are_sorted_and_what_is_there_twice_is_kept_once() -> None:
    (one,) = document(access(deny=["203.0.113.0/24", "10.0.0.7", "203.0.113.0/24", "10.0.0.7/32"])).services
    assert [str(network) for network in one.access.deny] == ["10.0.0.7/32", "203.0.113.0/24"]


def test_a_document_with_thousands_of_networks_is_read_back_as_it_was_written() -> None:
    one = document(access(deny=MANY, allow=["0.0.0.0/0"], log_refused=True, connections_per_backend=9))
    assert load_document(dump_document(one))[0] == one
    assert len(one.services[0].access.deny) == 10_000


def test_later_keys_are_written_only_where_they_differ() -> None:
    plain = document_to_data(document(service_data()))["services"][0]["access"]
    assert not {"new_burst", "connections_per_backend", "log_refused"} & plain.keys()


@pytest.mark.parametrize(
    ("fields", "path", "code"),
    [
        ({"allow": "192.0.2.0/24"}, "allow", "not-a-list"),
        ({"deny": ["192.0.2.0/24", "192.0.2.1/24"]}, "deny[1]", "network"),
        ({"deny": ["192.0.2.0/24", "web.example.org"]}, "deny[1]", "network"),
        ({"deny": ["192.0.2.0/33"]}, "deny[0]", "network"),
        ({"deny": ["192.0.2.0-192.0.2.9"]}, "deny[0]", "network"),
        ({"deny": ["!192.0.2.0/24"]}, "deny[0]", "network"),
        ({"deny": [""]}, "deny[0]", "network"),
        ({"deny": [3221225985]}, "deny[0]", "network"),
        ({"deny": [None]}, "deny[0]", "network"),
        ({"deny": [["192.0.2.0/24"]]}, "deny[0]", "network"),
        ({"deny": ["fe80::%eth0/64"]}, "deny[0]", "network"),
        ({"deny": ["192.0.2.0/24\n10.0.0.0/8"]}, "deny[0]", "network"),
        ({"deny": [*MANY[:17], "2001:db8::/32"]}, "deny[17]", "family"),
        ({"allow": ["::/0"]}, "allow[0]", "family"),
        ({"deny": ["10.0.0.0/8"] * (MAX_NETWORKS + 1)}, "deny", "too-many"),
        ({"new_per_second_per_source": 0}, "new_per_second_per_source", "range"),
        ({"new_per_second_per_source": 10_001}, "new_per_second_per_source", "range"),
        ({"new_per_second_per_source": "10"}, "new_per_second_per_source", "range"),
        ({"new_per_second_per_source": 0.5}, "new_per_second_per_source", "range"),
        ({"new_burst": 10}, "new_burst", "unused"),
        ({"new_per_second_per_source": 10, "new_burst": 9}, "new_burst", "range"),
        ({"new_per_second_per_source": 10, "new_burst": 10 * BURST_SECONDS + 1}, "new_burst", "range"),
        ({"new_per_second_per_source": 10, "new_burst": True}, "new_burst", "range"),
        ({"connections_per_source": 0}, "connections_per_source", "range"),
        ({"connections_per_source": -1}, "connections_per_source", "range"),
        ({"connections_per_backend": 1_000_001}, "connections_per_backend", "range"),
        ({"connections_per_backend": []}, "connections_per_backend", "range"),
        ({"drop_invalid": "yes"}, "drop_invalid", "type"),
        ({"log_refused": 1}, "log_refused", "type"),
        ({"log_refused": True, "drop_invalid": False}, "log_refused", "unused"),
        ({"denied": []}, "denied", "unknown-key"),
    ],
)
def test_what_is_wrong_is_told_at_the_field_and_the_entry(
    fields: dict[str, Any], path: str, code: str
) -> None:
    found = problems_of(access(**fields))
    assert [(p.path, p.code) for p in found] == [(f"services[0].access.{path}", code)]
    assert found[0].message.isprintable()


def test_every_wrong_entry_is_told_but_not_thousands_of_them() -> None:
    found = problems_of(access(deny=["10.0.0.0/8", "x", "10.0.0.0/8", "y"]))
    assert [p.path for p in found] == ["services[0].access.deny[1]", "services[0].access.deny[3]"]
    for wrong, place in (("x", "access.deny[9]"), ("2001:db8::/64", "access.deny[9]")):
        found = problems_of(access(deny=[wrong] * 3000))
        assert len(found) == 10
        assert found[-1].path == f"services[0].{place}"
        assert "2990 more entries" in found[-1].message


def test_an_address_with_bits_to_the_right_of_the_mask_gets_a_proposal() -> None:
    (found,) = problems_of(access(deny=["192.0.2.77/24"]))
    assert "write 192.0.2.0/24 for all of it" in found.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("203.0.113.0/24 # the office", "has a comment, and lists keep none; write 203.0.113.0/24 alone."),
        ("203.0.113.0/24;SBL123", "write 203.0.113.0/24 alone."),
        ("# the office", "has a comment, and lists keep none; leave it out."),
        ("203.0.113.7/24 # the office", "has a comment, and lists keep none; leave it out."),
        ("::ffff:203.0.113.0/120", "no client comes from there; write 203.0.113.0/24."),
        ("::ffff:cb00:7109", "no client comes from there; write 203.0.113.9/32."),
        ("::ffff:0:0/96", "no client comes from there; write 0.0.0.0/0."),
        ("::203.0.113.9", "no client comes from there; write 203.0.113.9/32."),
    ],
)
def test_what_people_paste_into_a_list_is_refused_with_what_to_write_instead(text: str, said: str) -> None:
    (found,) = problems_of(access(deny=["198.51.100.0/24", text]))
    assert (found.path, found.code) == ("services[0].access.deny[1]", "network")
    assert found.message.endswith(said)


def test_an_ipv6_service_takes_ipv6_networks_only() -> None:
    six = {"address": "2001:db8::1", "backends": [backend_data("2001:db8::3")]}
    assert (
        problems_of(service_data(**six, access={"deny": ["2001:db8:9::/48", "::/0", "::1", "::/96"]})) == ()
    )
    (found,) = problems_of(service_data(**six, access={"allow": ["2001:db8::/32", "10.0.0.0/8"]}))
    assert (found.path, found.code) == ("services[0].access.allow[1]", "family")


def test_connections_of_a_backend_need_addresses_that_tell_backends_apart() -> None:
    same = [backend_data("10.0.0.3", port=8001), backend_data("10.0.0.3", port=8002)]
    limit = {"connections_per_backend": 5}
    assert problems_of(service_data(backends=same, access=limit)) == ()
    (found,) = problems_of(service_data(backends=same, access=limit, port_end=90))
    assert (found.path, found.code) == ("services[0].access.connections_per_backend", "shared-address")


def test_an_entry_that_lets_nobody_in_is_a_warning() -> None:
    data = access(allow=["192.0.2.0/24", "10.0.0.0/23", "10.9.0.0/16"], deny=["10.0.0.0/24", "10.0.1.0/24"])
    one, problems = parse_document(document_data(data))
    assert one is not None
    assert errors(problems) == ()
    told = [(p.path, p.severity) for p in problems if p.code == "denied"]
    assert told == [("services[0].access.allow[1]", Severity.WARNING)]


@pytest.mark.parametrize(("fields", "burst"), [({}, 5), ({"new_burst": 60}, 60)])
def test_a_burst_that_is_not_given_is_that_of_a_second_and_at_least_five(
    fields: dict[str, int], burst: int
) -> None:
    (one,) = document(access(new_per_second_per_source=1, **fields)).services
    assert burst_of(one.access) == burst
    (fast,) = document(access(new_per_second_per_source=50)).services
    assert burst_of(fast.access) == 50


def test_the_kernel_keeps_rates_to_within_one_per_cent() -> None:
    for rate in range(1, 10_001):
        kept = rate_of_kernel(rate)
        assert rate_of_kernel(kept) == kept
        assert kept == rate if rate <= 1000 else rate <= kept <= rate * 1.01


def test_of_a_long_list_a_difference_names_what_comes_and_goes() -> None:
    (before,) = document(access(deny=MANY)).services
    (after,) = document(access(deny=[*MANY[1:], "203.0.113.0/24"])).services
    (change,) = diff_services(before, after)
    assert change.path == "access.deny"
    assert change.before == "10000 networks, no longer there: 10.0.0.0/24"
    assert change.after == "10000 networks, new: 203.0.113.0/24"
    (few,) = diff_services(
        document(access(deny=["10.0.0.0/8"])).services[0], document(access(deny=[])).services[0]
    )
    assert (few.before, few.after) == ("10.0.0.0/8", "(none)")
