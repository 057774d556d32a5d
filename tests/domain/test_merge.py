"""Two people's edits of one service, brought together: nothing of either is lost without a word."""

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.codec import parse_service, service_to_data
from balancer.domain.merge import Clash, Merge, Side, merge_service
from tests.documents import Data, backend_data, service_data

Edit = dict[str, Any]
"""Path -> value; a backend's path holds all of its fields, or None where it is to go."""
FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "enabled": st.booleans(),
    "critical": st.booleans(),
    "description": st.sampled_from(["", "shop", "mail"]),
    "interface": st.sampled_from(["eth0", "eth1"]),
    "port": st.sampled_from([80, 81, 443]),
    "additional_ports": st.sampled_from([[], ["8000-8099"], ["8000-8099", "9000"]]),
    "additional_interfaces": st.sampled_from([[], ["eth7"]]),
    "from_node": st.booleans(),
    "scheduler": st.sampled_from(["round-robin", "random", "source-hash"]),
    "persistence.mode": st.sampled_from(["none", "source"]),
    "access.drop_invalid": st.booleans(),
}
BACKENDS = [f"10.0.0.{last}" for last in (3, 4, 5, 20, 100)]
backend_edits = st.none() | st.fixed_dictionaries(
    {"weight": st.integers(1, 3), "state": st.sampled_from(["enabled", "draining", "disabled"])}
)
edits: st.SearchStrategy[Edit] = st.fixed_dictionaries(
    {}, optional={**FIELDS, **{f"backends[{address}:80]": backend_edits for address in BACKENDS}}
)


def canonical(data: Data) -> Data:
    service, problems = parse_service(data)
    assert service is not None, problems
    return service_to_data(service)


BASE = canonical(service_data("web", backends=[backend_data(address) for address in BACKENDS[:4]]))


def edited(edit: Edit, base: Data = BASE) -> Data:
    data = deepcopy(base)
    for path, value in edit.items():
        head, _, rest = path.partition(".")
        if path.startswith("backends["):
            _edit_backend(data, path[len("backends[") : -len(":80]")], value)
        elif rest:
            data[head][rest] = value
        else:
            data[path] = value
    return canonical(data)


def _edit_backend(data: Data, address: str, value: Data | None) -> None:
    others = [one for one in data["backends"] if one["address"] != address]
    data["backends"] = others if value is None else [*others, backend_data(address, port=80, **value)]


def merged(theirs: Data | None, mine: Data | None, base: Data | None = BASE, **choices: Side) -> Merge:
    return merge_service(base=base, theirs=theirs, mine=mine, choices=choices)


def flat(data: Data) -> dict[str, Any]:
    """Path -> value, down to the fields of each backend."""
    found = {"critical": False}
    for key, value in data.items():
        if key == "backends":
            for backend in value:
                place = f"backends[{backend['address']}:{backend['port']}]"
                found |= {place: True, **{f"{place}.{name}": v for name, v in backend.items()}}
        elif isinstance(value, dict):
            found |= {f"{key}.{name}": v for name, v in value.items()}
        else:
            found[key] = value
    return found


def covers(clash: Clash, path: str) -> bool:
    return clash.path == path or path.startswith(f"{clash.path}.")


# Laws


@given(edits)
def test_with_a_side_that_changed_nothing_the_result_is_the_other_side(edit: Edit) -> None:
    other = edited(edit)

    assert merged(theirs=BASE, mine=other) == merged(theirs=other, mine=BASE) == Merge(other, ())


@given(edits, edits)
def test_the_sides_are_equal_before_the_merge(one: Edit, other: Edit) -> None:
    here, there = edited(one), edited(other)

    forth, back = merged(theirs=here, mine=there), merged(theirs=there, mine=here)

    assert {c.path for c in forth.clashes} == {c.path for c in back.clashes}
    assert {(c.path, repr(c.theirs), repr(c.mine)) for c in forth.clashes} == {
        (c.path, repr(c.mine), repr(c.theirs)) for c in back.clashes
    }
    if not forth.clashes:
        assert forth.data == back.data


@given(edits, edits)
def test_a_field_that_both_changed_differently_is_a_clash_and_no_other_is(one: Edit, other: Edit) -> None:
    theirs, mine = edited(one), edited(other)

    clashes = merged(theirs=theirs, mine=mine).clashes

    base, here, there = flat(BASE), flat(theirs), flat(mine)
    moved = {
        path
        for path in {*base, *here, *there}
        if len({repr(side.get(path)) for side in (base, here, there)}) == 3
    }
    assert {path for path in moved if not any(covers(clash, path) for clash in clashes)} == set()
    assert len({clash.path for clash in clashes}) == len(clashes)
    for clash in clashes:
        assert clash.mine != clash.theirs
        assert clash.base not in (clash.mine, clash.theirs) or clash.base is None


@given(edits, edits)
def test_edits_of_different_things_are_both_in_the_result(one: Edit, other: Edit) -> None:
    others = {path: value for path, value in other.items() if path not in one}

    result = merged(theirs=edited(one), mine=edited(others))

    assert result == Merge(edited({**one, **others}), ())


@given(edits, edits, st.data())
def test_a_choice_for_every_clash_leaves_none_and_gives_the_chosen_value(
    one: Edit, other: Edit, data: st.DataObject
) -> None:
    theirs, mine = edited(one), edited(other)
    clashes = merged(theirs=theirs, mine=mine).clashes
    choices = {clash.path: data.draw(st.sampled_from(Side)) for clash in clashes}

    result = merge_service(base=BASE, theirs=theirs, mine=mine, choices=choices)

    assert result.clashes == ()
    assert result.data is not None
    sides = {Side.MINE: flat(mine), Side.THEIRS: flat(theirs)}
    for path, side in choices.items():
        assert flat(result.data).get(path) == sides[side].get(path)


@given(edits, edits, st.randoms())
def test_the_result_is_canonical_whatever_order_the_rows_and_keys_come_in(
    one: Edit, other: Edit, random: Any
) -> None:
    theirs, mine = edited(one), edited(other)
    expected = merged(theirs=theirs, mine=mine).data

    found = merged(theirs=_shuffled(theirs, random), mine=_shuffled(mine, random)).data

    assert expected is not None
    assert json.dumps(expected, indent=1) == json.dumps(canonical(expected), indent=1)
    assert json.dumps(found) == json.dumps(expected)


def _shuffled(data: Data, random: Any) -> Data:
    keys, backends = list(data), list(data["backends"])
    random.shuffle(keys)
    random.shuffle(backends)
    return {key: backends if key == "backends" else data[key] for key in keys}


# Cases


def test_one_of_us_deleted_what_the_other_modified_is_a_clash_about_the_whole_service() -> None:
    modified = edited({"port": 81})

    deleted_there = merged(theirs=None, mine=modified)
    deleted_here = merged(theirs=modified, mine=None)

    assert deleted_there == Merge(modified, (Clash("", BASE, None, modified),))
    assert deleted_here == Merge(None, (Clash("", BASE, modified, None),))
    assert merge_service(base=BASE, theirs=None, mine=modified, choices={"": Side.THEIRS}) == Merge(None, ())


def test_what_is_deleted_and_otherwise_untouched_is_gone() -> None:
    assert merged(theirs=None, mine=BASE) == merged(theirs=BASE, mine=None) == Merge(None, ())
    assert merged(theirs=None, mine=None) == Merge(None, ())


def test_two_services_of_one_name_that_are_new_on_both_sides_are_not_mixed() -> None:
    here, there = edited({"port": 81}), edited({"interface": "eth1"})

    assert [clash.path for clash in merged(base=None, theirs=there, mine=here).clashes] == [""]
    assert merged(base=None, theirs=here, mine=here) == Merge(here, ())


def test_a_backend_that_both_added_is_merged_field_by_field() -> None:
    place = "backends[10.0.0.100:80]"
    theirs = edited({place: {"weight": 3, "state": "enabled"}})
    mine = edited({place: {"weight": 2, "state": "enabled"}})

    result = merged(theirs=theirs, mine=mine)

    assert result.clashes == (Clash(f"{place}.weight", None, 3, 2),)
    assert result.data == mine


def test_a_backend_that_one_removed_and_the_other_weighed_anew_is_a_clash_about_the_backend() -> None:
    place = "backends[10.0.0.3:80]"
    heavier = edited({place: {"weight": 3, "state": "enabled"}})
    result = merged(theirs=edited({place: None}), mine=heavier)

    (clash,) = result.clashes

    assert (clash.path, clash.theirs) == (place, None)
    assert clash.mine["weight"] == 3
    assert result.data == heavier


@pytest.mark.parametrize("side", [Side.MINE, Side.THEIRS])
def test_a_mark_that_is_left_out_at_its_default_can_be_taken_away_by_either_side(side: Side) -> None:
    critical = edited({"critical": True})
    plain = edited({"critical": False, "port": 81})
    assert "critical" not in plain

    theirs, mine = (critical, plain) if side is Side.MINE else (plain, critical)
    result = merge_service(base=critical, theirs=theirs, mine=mine)

    assert result == Merge(plain, ())


def test_new_keys_of_both_sides_come_together_in_the_order_of_the_document() -> None:
    none = BASE | {"source_nat": {"mode": "none", "address": None}}
    theirs, mine = deepcopy(none), deepcopy(none)
    theirs["persistence"] |= {"mode": "source", "prefix": 24}
    theirs["additional_ports"] = ["443"]
    mine["source_nat"] |= {"hairpin": True}
    mine["from_node"] = True

    merged = merge_service(base=none, theirs=theirs, mine=mine)

    assert merged.clashes == ()
    assert merged.data is not None
    assert json.dumps(merged.data) == json.dumps(canonical(merged.data))
    assert merged.data["persistence"]["prefix"] == 24
    assert merged.data["source_nat"]["hairpin"] is True


def test_a_list_of_ports_that_both_changed_is_for_a_person_to_decide() -> None:
    theirs, mine = edited({"additional_ports": ["443"]}), edited({"additional_ports": ["8000-8099"]})

    merged = merge_service(base=BASE, theirs=theirs, mine=mine)

    assert merged.clashes == (Clash("additional_ports", None, ["443"], ["8000-8099"]),)
