"""Facts keep their meaning, and every database gives them back as they were hashed."""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.facts import canonical_json, plain_facts, plain_text

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=8)
    | st.dates()
    | st.decimals(allow_nan=True),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


class Colour(StrEnum):
    RED = "red"


def as_jsonb(value: Any) -> Any:
    """What jsonb does to a value: numbers become decimals, and an exponent is written out."""
    if isinstance(value, float):
        decimal = f"{Decimal(repr(value)):f}"
        return json.loads(decimal)
    if isinstance(value, list):
        return [as_jsonb(item) for item in value]
    if isinstance(value, dict):
        return {key: as_jsonb(item) for key, item in value.items()}
    return value


@given(st.dictionaries(st.text(max_size=5), anything, max_size=5))
def test_facts_come_back_as_they_were_hashed(facts: dict[str, Any]) -> None:
    plain = plain_facts(facts)
    text = canonical_json(plain)

    assert canonical_json(json.loads(text)) == text
    assert canonical_json(as_jsonb(json.loads(text))) == text
    assert "\\u0000" not in text
    text.encode("ascii")
    json.dumps(plain, ensure_ascii=False).encode("utf-8")


@given(st.dictionaries(st.text(max_size=5), anything, max_size=5))
def test_plain_facts_are_plain_already(facts: dict[str, Any]) -> None:
    plain = plain_facts(facts)

    assert plain_facts(plain) == plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (True, True),
        (2.5, 2.5),
        (3.0, 3),
        (-0.0, 0),
        (1e16, 10**16),
        (1e300, f"{int(1e300):#x}"),
        (2**64, "0x10000000000000000"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        ("a\x00b", "a\\x00b"),
        ("\ud800", "\\ud800"),
        (b"\xff", "b'\\xff'"),
        (("b", "a"), ["b", "a"]),
        ({"b", "a"}, ["a", "b"]),
        ({1: {"a": 1.0}}, {"1": {"a": 1}}),
        (Colour.RED, "red"),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01 12:00:00+00:00"),
        (IPv4Address("192.0.2.1"), "192.0.2.1"),
        (Decimal("1.10"), "1.10"),
    ],
)
def test_a_fact_becomes_json_that_a_person_can_still_read(value: Any, expected: Any) -> None:
    assert plain_facts({"fact": value}) == {"fact": expected}


def test_text_that_a_database_refuses_is_spelled_out_and_other_text_stays() -> None:
    assert plain_text("Zoë 🙂\n\t") == "Zoë 🙂\n\t"
    assert plain_text("\x00\udfff") == "\\x00\\udfff"
