"""What people read: shares, differences, events."""

from fractions import Fraction

import pytest

from balancer.admin.field_words import describe_fields
from balancer.admin.history import tone_of, words_of
from balancer.admin.shares import DASH, describe_share, format_percent
from balancer.domain.diff import diff_services
from balancer.workflow.audit import Action
from tests.documents import backend_data, document, service_data


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
