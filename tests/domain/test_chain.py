"""Whatever is done to a chain of events, walking it finds the first place where it was done."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.chain import (
    GENESIS,
    Event,
    FaultKind,
    Head,
    Unreadable,
    Verdict,
    chain_id,
    hash_event,
    verify_chain,
    verify_part,
)

LENGTH = 12
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIELDS: dict[str, Any] = {
    "at": NOON - timedelta(microseconds=1),
    "actor_id": 99,
    "actor_name": "somebody else",
    "source": "192.0.2.99",
    "action": "change.rejected",
    "object_type": "node",
    "object_id": "99",
    "object_label": "another",
    "facts": {"n": True},
    "previous": "e" * 64,
    "hash": "f" * 64,
}
"""Every column but the number, with a value that no event of `make_chain` has."""


def seal(event: Event) -> Event:
    return replace(event, hash=hash_event(event))


def make_event(number: int, *, previous: str, **other: Any) -> Event:
    fields: dict[str, Any] = {
        "at": NOON + timedelta(seconds=number),
        "actor_id": None if number % 3 else number,
        "actor_name": f"person {number % 3}",
        "source": "198.51.100.7",
        "action": "change.approved",
        "object_type": "change",
        "object_id": str(number),
        "object_label": f"#{number}",
        "facts": {"n": number, "words": ["ä", None, 0.5]},
        "row": number + 100,
    }
    return seal(Event(number=number, previous=previous, **(fields | other)))


def make_chain(length: int = LENGTH) -> list[Event]:
    chain: list[Event] = []
    for number in range(1, length + 1):
        chain.append(make_event(number, previous=chain[-1].hash if chain else GENESIS))
    return chain


CHAIN = make_chain()
HEAD = Head(CHAIN[-1].number, CHAIN[-1].hash)
positions = st.integers(0, LENGTH - 1)


def fault_of(verdict: Verdict) -> tuple[FaultKind, int] | None:
    return (verdict.fault.kind, verdict.fault.number) if verdict.fault else None


def by_number(events: list[Event]) -> list[Event]:
    """As the database gives them: in order of their numbers."""
    return sorted(events, key=lambda event: (event.number, event.row or 0))


# What is whole


@pytest.mark.parametrize("length", [0, 1, 2, 50])
def test_a_chain_as_it_was_written_is_intact(length: int) -> None:
    chain = make_chain(length)
    heads = {Head(event.number, event.hash) for event in chain}

    verdict = verify_chain(chain, heads=heads)

    assert (verdict.fault, verdict.count, verdict.gaps) == (None, length, 0)
    assert verdict.last == (max(heads) if heads else None)


@given(positions)
def test_an_older_head_than_the_last_event_fits(position: int) -> None:
    head = Head(CHAIN[position].number, CHAIN[position].hash)

    assert verify_chain(CHAIN, heads=[head]).fault is None


def test_the_same_moment_has_one_hash_wherever_it_was_read() -> None:
    elsewhere = CHAIN[0].at.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert hash_event(replace(CHAIN[0], at=elsewhere)) == CHAIN[0].hash


def test_the_hash_is_the_one_that_the_design_page_describes() -> None:
    """Written down, since a hash that changes makes every history that was ever kept look forged."""
    event = Event(
        number=1,
        at=NOON,
        actor_id=7,
        actor_name="Zoë",
        source="2001:db8::1",
        action="change.opened",
        object_type="change",
        object_id="1",
        object_label="#1 “First”",
        facts={"b": [1, 2.5, None, True], "a": "\n"},
        previous=GENESIS,
    )

    text = (
        r'{"action":"change.opened","actor_id":7,"actor_name":"Zo\u00eb","at":"2026-03-01T12:00:00.000000+00:00",'
        r'"facts":{"a":"\n","b":[1,2.5,null,true]},"number":1,"object_id":"1",'
        r'"object_label":"#1 \u201cFirst\u201d","object_type":"change",'
        rf'"previous":"{GENESIS}","source":"2001:db8::1"}}'
    )
    assert hash_event(event) == hashlib.sha256(text.encode()).hexdigest()


def test_a_chain_is_named_by_its_first_event() -> None:
    assert chain_id(CHAIN[0].hash) == CHAIN[0].hash[:16]


# Edited


@given(positions, st.sampled_from(sorted(FIELDS)))
def test_an_edited_event_is_named(position: int, field: str) -> None:
    edited = replace(CHAIN[position], **{field: FIELDS[field]})
    chain = [*CHAIN[:position], edited, *CHAIN[position + 1 :]]

    assert fault_of(verify_chain(chain)) == (FaultKind.EDITED, position + 1)


@given(st.integers(0, LENGTH - 2))
def test_an_edited_event_with_a_new_hash_is_named_by_the_one_after_it(position: int) -> None:
    edited = seal(replace(CHAIN[position], actor_name="nobody"))
    chain = [*CHAIN[:position], edited, *CHAIN[position + 1 :]]

    assert fault_of(verify_chain(chain)) == (FaultKind.EDITED, position + 1)


@given(positions)
def test_a_tail_that_was_written_anew_is_found_by_a_head_alone(position: int) -> None:
    chain = CHAIN[:position]
    for event in CHAIN[position:]:
        chain.append(seal(replace(event, actor_name="nobody", previous=chain[-1].hash if chain else GENESIS)))
    heads = [Head(event.number, event.hash) for event in CHAIN]

    assert verify_chain(chain).fault is None
    assert fault_of(verify_chain(chain, heads=[HEAD])) == (FaultKind.EDITED, LENGTH)
    assert fault_of(verify_chain(chain, heads=heads)) == (FaultKind.EDITED, position + 1)


def test_a_row_that_cannot_be_read_is_named() -> None:
    def events() -> Any:
        yield from CHAIN[:4]
        raise Unreadable("no time")

    assert fault_of(verify_chain(events())) == (FaultKind.EDITED, 5)


# Deleted, cut, inserted, moved


@given(st.integers(0, LENGTH - 2), st.integers(1, LENGTH))
def test_deleted_events_are_named(position: int, count: int) -> None:
    chain = CHAIN[:position] + CHAIN[min(position + count, LENGTH - 1) :]

    assert fault_of(verify_chain(chain)) == (FaultKind.MISSING, position + 1)


@given(positions)
def test_a_cut_tail_is_found_by_a_head_alone(position: int) -> None:
    chain = CHAIN[:position]

    assert verify_chain(chain).fault is None
    assert fault_of(verify_chain(chain, heads=[HEAD])) == (FaultKind.CUT, position + 1)


@given(positions)
def test_a_deleted_event_whose_place_the_others_took_is_found(position: int) -> None:
    """All later numbers moved up by one, hashes left as they were."""
    later = [replace(event, number=event.number - 1) for event in CHAIN[position + 1 :]]
    chain = CHAIN[:position] + later

    kind = FaultKind.REORDERED if later else FaultKind.CUT
    assert fault_of(verify_chain(chain, heads=[HEAD])) == (kind, position + 1)


@given(positions)
def test_an_inserted_event_is_found(position: int) -> None:
    """With the number of the one that it was put before, and all else right."""
    forged = make_event(position + 1, previous=CHAIN[position].previous, actor_name="nobody")
    chain = by_number([*CHAIN, replace(forged, row=999)])

    kind, number = fault_of(verify_chain(chain)) or (None, 0)
    assert (kind, number) == (FaultKind.INSERTED, position + 1)


@given(positions, positions)
def test_two_events_that_changed_places_are_found(first: int, second: int) -> None:
    """Numbers stay in order, everything else was exchanged."""
    low, high = sorted((first, second))
    chain = list(CHAIN)
    chain[low] = replace(CHAIN[high], number=low + 1)
    chain[high] = replace(CHAIN[low], number=high + 1)

    expected = None if low == high else (FaultKind.REORDERED, low + 1)
    assert fault_of(verify_chain(chain)) == expected


@given(positions, positions)
def test_rows_that_changed_keys_are_found(first: int, second: int) -> None:
    """Lists are in the order of the keys, so that order has to be the chain's."""
    low, high = sorted((first, second))
    chain = list(CHAIN)
    chain[low], chain[high] = (
        replace(CHAIN[low], row=CHAIN[high].row),
        replace(CHAIN[high], row=CHAIN[low].row),
    )

    found = fault_of(verify_chain(chain))
    assert (found is None) == (low == high)
    if found:
        assert found == (FaultKind.REORDERED, low + 2)


@given(st.permutations(range(LENGTH)))
def test_events_in_any_other_order_are_not_a_chain(order: list[int]) -> None:
    assert (verify_chain([CHAIN[i] for i in order]).fault is None) == (order == sorted(order))


def test_a_number_before_the_first_is_no_event() -> None:
    assert fault_of(verify_chain([make_event(0, previous=GENESIS)])) == (FaultKind.INSERTED, 0)


def test_the_message_says_what_when_and_where() -> None:
    chain = [*CHAIN[:3], replace(CHAIN[3], actor_name="nobody"), *CHAIN[4:]]
    fault = verify_chain(chain).fault

    assert fault is not None
    assert fault.message == (
        "Event 4 of 2026-03-01 12:00:04+00:00 was edited: its content does not give its hash."
    )


# Exports


@given(st.sets(positions))
def test_an_export_may_leave_events_out_and_says_so(left: set[int]) -> None:
    part = [event for position, event in enumerate(CHAIN) if position not in left]
    numbers = [0, *(event.number for event in part)]

    verdict = verify_part(part)

    assert (verdict.fault, verdict.count) == (None, len(part))
    assert verdict.gaps == sum(b != a + 1 for a, b in pairwise(numbers))


@given(st.sets(positions, max_size=LENGTH - 1), st.data())
def test_an_edit_in_an_export_is_found(left: set[int], data: st.DataObject) -> None:
    part = [event for position, event in enumerate(CHAIN) if position not in left]
    position = data.draw(st.integers(0, len(part) - 1))
    number = part[position].number
    part[position] = replace(part[position], action="change.rejected")

    assert fault_of(verify_part(part)) == (FaultKind.EDITED, number)
