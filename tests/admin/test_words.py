"""What people read: shares, differences, events."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from balancer.admin.field_words import describe_fields, with_unit
from balancer.admin.history import tone_of, words_of
from balancer.admin.places import describe_place
from balancer.admin.shares import DASH, compare_shares, describe_share, format_percent, shares_of
from balancer.domain.diff import diff_services
from balancer.workflow.audit import Action
from balancer.workflow.traffic import share_rows
from tests.documents import backend_data, document, service_data

ONE = "1 · 100\N{NO-BREAK SPACE}%"
NOTHING = "0\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (Fraction(1, 4), "1/4 · 25\N{NO-BREAK SPACE}%"),
        (Fraction(1, 3), "1/3 · 33.33\N{NO-BREAK SPACE}%"),
        (Fraction(1, 8), "1/8 · 12.5\N{NO-BREAK SPACE}%"),
        (Fraction(1), "1 · 100\N{NO-BREAK SPACE}%"),
        (Fraction(0), "0\N{NO-BREAK SPACE}%"),
        (Fraction(1, 1024), "1/1024 · 0.1\N{NO-BREAK SPACE}%"),
    ],
)
def test_a_share_is_a_fraction_and_a_percentage(share: Fraction, text: str) -> None:
    assert describe_share(share) == text


def test_a_share_of_source_hash_is_counted_in_parts_of_all_clients() -> None:
    assert describe_share(Fraction(1, 4), parts=1024) == "256/1024 · 25\N{NO-BREAK SPACE}%"
    assert describe_share(Fraction(0), parts=1024) == "0\N{NO-BREAK SPACE}%"
    assert describe_share(Fraction(1, 3), parts=1024) == "1/3 · 33.33\N{NO-BREAK SPACE}%"


def test_backends_of_failover_that_wait_are_said_to_stand_by() -> None:
    backends = [
        backend_data("10.0.0.3"),
        backend_data("10.0.0.4", priority=1),
        backend_data("10.0.0.5", priority=1, state="draining"),
    ]
    before = document(service_data(backends=[backend_data()])).services[0]
    after = document(service_data(scheduler="failover", backends=backends)).services[0]

    assert [share.text for share in shares_of(after)] == [ONE, "standby", NOTHING]
    moves = compare_shares(share_rows(before=before, after=after))
    assert [(m.before_text, m.after_text) for m in moves] == [(ONE, ONE), (DASH, "standby"), (DASH, NOTHING)]
    assert [share.text for share in shares_of(replace(after, enabled=False))] == [NOTHING] * 3


def test_the_shares_of_source_hash_are_whole_parts_that_add_up() -> None:
    backends = [backend_data(f"10.0.0.{n}", weight=n) for n in (3, 4, 6)]
    shares = shares_of(document(service_data(scheduler="source-hash", backends=backends)).services[0])

    parts = [int(share.text.partition("/")[0]) for share in shares]
    assert sum(parts) == 1024
    assert parts == [236, 315, 473]


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        ("slow_start", "30", "30 seconds"),
        ("persistence.timeout", "1", "1 second"),
        ("persistence.prefix", "24", "/24"),
        ("persistence.prefix", "(none)", "(none)"),
        ("port", "80", "80"),
    ],
)
def test_a_number_is_shown_with_what_it_counts(path: str, text: str, shown: str) -> None:
    assert with_unit(path, text) == shown


def test_the_new_keys_are_shown_under_the_names_that_the_form_has() -> None:
    before = document(service_data(scheduler="failover")).services[0]
    first, *rest = service_data()["backends"]
    after = document(
        service_data(
            scheduler="failover",
            additional_ports=["443"],
            from_node=True,
            source_nat={"mode": "none", "hairpin": True},
            persistence={"mode": "source", "timeout": 60, "prefix": 24},
            backends=[first, *rest, backend_data("10.0.0.9", priority=5)],
        )
    ).services[0]

    rows = {row.label: (row.before, row.after) for row in describe_fields(diff_services(before, after))}

    assert rows == {
        "Additional ports": ("(none)", "443"),
        "From the node itself": ("no", "yes"),
        "Persistence": ("none", "source"),
        "Timeout of persistence": ("300 seconds", "60 seconds"),
        "Clients that stay together": ("(none)", "/24"),
        "Source address": ("masquerade", "none"),
        "Hairpin": ("no", "yes"),
        "Backend 10.0.0.9:80": (DASH, "weight 1, enabled, priority 5"),
    }


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({}, "eth0 · any:80/tcp"),
        ({"address": "2001:db8::1", "backends": []}, "eth0 · [2001:db8::1]:80/tcp"),
        ({"port_end": 90}, "eth0 · any:80-90/tcp"),
        ({"additional_ports": ["443", "8000-8099"]}, "eth0 · any · tcp 80, 443, 8000-8099"),
        (
            {
                "address": "203.0.113.1",
                "additional_addresses": ["203.0.113.2"],
                "additional_interfaces": ["eth1"],
            },
            "eth0, eth1 · 203.0.113.1, 203.0.113.2 · tcp 80",
        ),
        ({"additional_ports": [str(p) for p in range(90, 96)]}, "eth0 · any · tcp 80, 90, 91, 92 and 3 more"),
    ],
)
def test_where_a_service_listens_is_one_line(place: dict[str, Any], words: str) -> None:
    service = document(service_data(**place)).services[0]
    texts = {"addresses": service.addresses, "ports": service.port_ranges}
    shown = {key: [str(one) for one in some] for key, some in texts.items()}
    assert describe_place(interfaces=service.interfaces, protocol=str(service.protocol), **shown) == words


def test_a_share_that_is_not_nothing_is_never_shown_as_nothing() -> None:
    assert format_percent(Fraction(1, 100_000)) == "< 0.01\N{NO-BREAK SPACE}%"


def test_a_backend_that_came_or_went_is_one_line() -> None:
    before = document(service_data(backends=[backend_data("10.0.0.3"), backend_data("10.0.0.4")])).services[0]
    after = document(
        service_data(backends=[backend_data("10.0.0.3", weight=2), backend_data("10.0.0.5")])
    ).services[0]

    rows = [(row.label, row.before, row.after) for row in describe_fields(diff_services(before, after))]

    assert rows == [
        ("Backend 10.0.0.3:80, weight", "1", "2"),
        ("Backend 10.0.0.4:80", "weight 1, enabled", DASH),
        ("Backend 10.0.0.5:80", DASH, "weight 1, enabled"),
    ]


@pytest.mark.parametrize("action", sorted(Action))
def test_every_action_has_words_of_its_own(action: Action) -> None:
    assert words_of(str(action)) != str(action).replace(".", " ").replace("_", " ")


def test_a_refused_deed_is_told_as_one() -> None:
    assert words_of("change.approved.refused") == "could not approve it"
    assert tone_of("change.approved.refused") == "bad"
