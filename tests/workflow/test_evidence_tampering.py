"""Whatever is altered in an evidence file is found, wherever it is and whatever is put there."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.domain.codec import digest_text
from balancer.domain.evidence import digest_content
from balancer.domain.evidence_checks import check_digest, verify_evidence
from balancer.domain.evidence_findings import run_check
from balancer.models import Deployment, Evidence
from tests.cast import Site
from tests.documents import backend_data, service_data

Path = tuple[str | int, ...]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
BOUND = (
    ("policy", "approvals"),
    ("change", "digest"),
    ("drafts",),
    ("events",),
    ("reviews",),
    ("revision", "digest"),
    ("revision", "document"),
    ("revision", "number"),
    ("revision", "rulesets"),
    ("votes", 0, "by", "id"),
    ("votes", 0, "digest"),
    ("votes", 0, "reason"),
    ("votes", 0, "review"),
    ("votes", 0, "verdict"),
    ("deployment", "id"),
    ("deployment", "cluster"),
    ("deployment", "state"),
    ("deployment", "requested_by", "id"),
    ("deployment", "waiver"),
    ("jobs", 0, "id"),
    ("jobs", 0, "receipt", "ipv4", "ruleset_digest"),
    ("jobs", 1, "receipt", "ipv4", "ruleset_digest"),
)
"""What does not even fit the rest of the file once its own digest was computed anew. The others (titles,
times, steps, probes) are held by that digest, and by the SHA-256 in the chain."""
PAIR = [backend_data("10.0.0.3"), backend_data("10.0.0.4", weight=2)]


@pytest.fixture
def genuine(site: Site) -> Any:
    site.deploy(service_data("web", backends=PAIR))
    site.deploy(service_data("web", port=81, backends=PAIR))
    return json.loads(Evidence.objects.get(deployment=Deployment.objects.latest("pk")).text)


def leaves(data: Any, path: Path = ()) -> Iterator[Path]:
    """The way to each value that holds no others; an empty list or object is one."""
    inner: Any = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    ways = [way for key, value in inner for way in leaves(value, (*path, key))]
    yield from ways or [path]


def put(data: Any, path: Path, value: Any) -> Any:
    """A copy with another value there."""
    altered = copy.deepcopy(data)
    place = altered
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return altered


def at(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def is_found(data: Any) -> bool:
    return not all(finding.passed for finding in verify_evidence(data))


def other(value: Any) -> Any:
    """Something of the same kind, so that it takes more than its type to find it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x" if not value or value[-1] != "0" else f"{value[:-1]}1"
    return "x" if value is None else [1]


def test_every_leaf_that_is_altered_is_found(genuine: Any) -> None:
    assert not is_found(genuine)
    ways = list(leaves(genuine))
    assert len(ways) > 300

    def is_noticed(way: Path) -> bool:
        altered = put(genuine, way, other(at(genuine, way)))
        return not run_check("digest", check_digest, altered).passed

    assert [way for way in ways if not is_noticed(way)] == []


def test_what_is_bound_is_found_although_the_digest_was_computed_anew(genuine: Any) -> None:
    ways = [way for way in leaves(genuine) if any(way[: len(part)] == part for part in BOUND)]
    assert {part for part in BOUND if not any(way[: len(part)] == part for way in ways)} == set()

    # The many events are alike: some of each will do.
    ways = [way for number, way in enumerate(ways) if way[0] != "events" or number % 5 == 0]

    def unnoticed(way: Path) -> bool:
        altered = put(genuine, way, other(at(genuine, way)))
        return not is_found(altered | {"digest": digest_content(altered)})

    assert [way for way in ways if unnoticed(way)] == []


def test_every_part_that_is_taken_out_is_found(genuine: Any) -> None:
    for key in genuine:
        assert is_found({name: value for name, value in genuine.items() if name != key}), key
    for key in ("votes", "events", "jobs", "drafts"):
        altered = genuine | {key: genuine[key][1:]}
        # Of events that were left out, an export tells.
        assert key == "events" or is_found(altered | {"digest": digest_content(altered)}), key


def test_whatever_stands_in_the_place_of_a_value_is_judged_and_never_an_error(genuine: Any) -> None:
    ways = list(leaves(genuine))

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(way=st.sampled_from(ways), value=JSON, up=st.integers(0, 3))
    def replace(way: Path, value: Any, up: int) -> None:
        place = way[: max(1, len(way) - up)]
        altered = put(genuine, place, value)
        same = json.dumps(altered, sort_keys=True) == json.dumps(genuine, sort_keys=True)
        assert is_found(altered) is not same
        verify_evidence(altered | {"digest": digest_content(altered)})

    replace()


@settings(max_examples=50, deadline=None)
@given(value=JSON)
def test_what_is_no_evidence_file_at_all_is_judged_too(value: Any) -> None:
    assert is_found(value)


def sentence(data: Any, check: str, **parts: Any) -> tuple[bool, str]:
    """What a check says of the file with other parts, its digest computed anew."""
    altered = data | parts
    altered = altered | {"digest": digest_content(altered)}
    (found,) = [finding for finding in verify_evidence(altered) if finding.check == check]
    return found.passed, found.text


def test_approvals_are_only_waived_where_the_chain_says_so_too(genuine: Any) -> None:
    waiver = {"kind": "emergency", "by": {"id": 1, "name": "eve"}, "reason": "It burns."}

    said = sentence(genuine, "approvals", deployment=genuine["deployment"] | {"waiver": waiver}, votes=[])

    assert said == (False, "The file says that approvals were waived, and the audit history does not.")


def test_a_late_review_is_signed_by_a_second_person(genuine: Any) -> None:
    author, second = genuine["change"]["author"], {"id": 99, "name": "sam"}
    late = {"kind": "emergency", "opened_by": {"id": 98, "name": "ola"}, "signed_by": None}

    assert sentence(genuine, "late-reviews", late_reviews=[late | {"signed_by": author}])[0] is False
    assert (
        sentence(genuine, "late-reviews", late_reviews=[late | {"signed_by": late["opened_by"]}])[0] is False
    )
    said = sentence(genuine, "late-reviews", late_reviews=[late, late | {"signed_by": second}])
    assert said == (True, "1 of 2 late reviews were signed by a second person.")


def test_a_rehearsal_of_something_else_is_no_evidence(genuine: Any) -> None:
    rehearsal = {"node": "lb1", "digest": genuine["change"]["digest"], "state": "passed"}

    assert sentence(genuine, "rehearsals", rehearsals=[rehearsal])[0] is True
    assert sentence(genuine, "rehearsals", rehearsals=[rehearsal | {"digest": "0" * 64}])[0] is False


def test_rules_that_a_node_carried_instead_have_to_fit_its_receipt(genuine: Any) -> None:
    first, *others = genuine["jobs"]
    carried = first | {"carried": {"ipv4": "*nat\nCOMMIT\n"}}
    receipt = {"ipv4": first["receipt"]["ipv4"] | {"ruleset_digest": digest_text("*nat\nCOMMIT\n")}}

    assert sentence(genuine, "receipts", jobs=[carried, *others])[0] is False
    assert sentence(genuine, "receipts", jobs=[carried | {"receipt": receipt}, *others])[0] is True
