"""Overrides beside the document: laws for any document, and the limits of what operators may set."""

import json
from ipaddress import IPv4Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.codec import dump_document
from balancer.domain.limits import scheduled
from balancer.domain.operation import OperationPolicy
from balancer.domain.overrides import (
    Override,
    digest_overrides,
    override_from_data,
    put_override,
    service_with_overrides,
    weight_range,
    why_not_lift,
    why_not_override,
    why_without_effect,
    with_overrides,
)
from balancer.domain.problem import errors
from balancer.domain.types import BackendState, Document
from balancer.domain.validation import validate_document, validate_parsed
from tests.documents import backend_data, document, documents, service_data


def override(last: int, *, service: str = "web", port: int = 80, **fields: object) -> Override:
    return Override(service=service, address=IPv4Address(f"10.0.0.{last}"), port=port, **fields)  # type: ignore[arg-type]


def drained(last: int, **fields: object) -> Override:
    return override(last, state=BackendState.DRAINING, **fields)


@st.composite
def overridden(draw: st.DrawFn) -> tuple[Document, tuple[Override, ...]]:
    """A document, and overrides of its backends and of some that it does not have, one of a kind each."""
    found = draw(documents(max_services=4))
    places = [(s.name, b.address, b.port) for s in found.services for b in s.backends]
    places += [("gone", IPv4Address("10.0.0.2"), 80), ("s0", IPv4Address("10.9.9.9"), 80)]
    chosen: tuple[Override, ...] = ()
    for service, address, port in draw(st.lists(st.sampled_from(places), max_size=12)):
        what: dict[str, object] = draw(
            st.one_of(
                st.fixed_dictionaries({"state": st.sampled_from(BackendState)}),
                st.fixed_dictionaries({"weight": st.integers(1, 256)}),
            )
        )
        chosen = put_override(chosen, Override(service=service, address=address, port=port, **what))  # type: ignore[arg-type]
    return found, chosen


@given(overridden())
def test_whatever_is_laid_over_a_valid_document_leaves_it_valid_and_twice_is_once(
    case: tuple[Document, tuple[Override, ...]],
) -> None:
    before, overrides = case

    after = with_overrides(before, overrides)

    assert not errors(validate_document(after))
    assert with_overrides(after, overrides) == after


@given(overridden(), st.randoms(use_true_random=False))
def test_the_order_of_overrides_means_nothing_and_lifting_all_gives_the_document_back(
    case: tuple[Document, tuple[Override, ...]], random: Random
) -> None:
    before, overrides = case
    text = dump_document(before)
    shuffled = list(overrides)
    random.shuffle(shuffled)

    assert dump_document(with_overrides(before, shuffled)) == dump_document(with_overrides(before, overrides))
    assert digest_overrides(shuffled) == digest_overrides(overrides)
    assert tuple(override_from_data(json.loads(json.dumps(o.to_data()))) for o in overrides) == overrides
    assert dump_document(with_overrides(before, ())) == text == dump_document(before)


@given(overridden())
def test_services_and_fields_that_no_override_names_stay_as_they_are(
    case: tuple[Document, tuple[Override, ...]],
) -> None:
    before, overrides = case
    named = {(o.service, o.endpoint, o.state is None) for o in overrides}

    for was, now in zip(before.services, with_overrides(before, overrides).services, strict=True):
        if was.name not in {o.service for o in overrides}:
            assert now is was
        for old, new in zip(was.backends, now.backends, strict=True):
            assert new.state == old.state or (was.name, old.endpoint, False) in named
            assert new.weight == old.weight or (was.name, old.endpoint, True) in named


@given(overridden(), st.integers(0, 3), st.integers(0, 300))
def test_what_operators_may_set_one_after_the_other_keeps_every_limit_and_takes_effect(
    case: tuple[Document, tuple[Override, ...]], keep: int, percent: int
) -> None:
    before, overrides = case
    policy = OperationPolicy(override_keep=keep, override_weight_percent=percent)
    usable = {service.name: len(service.usable_backends) for service in before.services}
    force: tuple[Override, ...] = ()
    for asked in overrides:
        if why_not_override(before, force, asked, policy) is None:
            force = put_override(force, asked)

    for was, now in zip(before.services, with_overrides(before, force).services, strict=True):
        assert len(now.usable_backends) >= min(keep, usable[was.name])
        for old, new in zip(was.backends, now.backends, strict=True):
            assert abs(new.weight - old.weight) * 100 <= percent * old.weight
    dropped = "It has no effect: with the weights"
    assert not any((why_without_effect(before, force, o) or "").startswith(dropped) for o in force)


WEB = document(service_data("web"))
HEAVY = document(
    service_data("web", backends=[backend_data("10.0.0.3", weight=10), backend_data("10.0.0.4", weight=200)])
)
ONE_LEFT = OperationPolicy()


def test_a_drained_backend_takes_no_share_and_the_document_does_not_know_of_it() -> None:
    (web,) = with_overrides(WEB, [drained(3)]).services

    assert [str(b.address) for b in web.usable_backends] == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert len(WEB.services[0].usable_backends) == 4


def test_the_last_usable_backend_stays_and_two_where_the_policy_wants_two() -> None:
    three = [drained(3), drained(4), drained(5)]

    assert why_not_override(WEB, three[:2], three[2], ONE_LEFT) is None
    why_not = why_not_override(WEB, three, drained(6), ONE_LEFT)
    assert why_not is not None
    assert "would take new connections" in why_not
    assert why_not_override(WEB, three[:2], three[2], OperationPolicy(override_keep=2)) is not None
    disabled = override(3, state=BackendState.DISABLED)
    assert why_not_override(WEB, three, disabled, ONE_LEFT) is None, "it took no connections before either"


def test_lifting_is_refused_only_where_it_would_take_away_the_last_backend() -> None:
    spare = document(
        service_data(backends=[backend_data("10.0.0.3"), backend_data("10.0.0.4", state="disabled")])
    )
    enabled = override(4, state=BackendState.ENABLED)

    assert why_not_lift(spare, [enabled], enabled, ONE_LEFT) is None
    assert why_not_lift(spare, [enabled, drained(3)], enabled, ONE_LEFT) is not None
    assert why_not_lift(spare, [enabled, drained(3)], drained(3), ONE_LEFT) is None
    assert why_not_lift(spare, [drained(9, service="gone")], drained(9, service="gone"), ONE_LEFT) is None


@pytest.mark.parametrize(
    ("last", "weight", "allowed"),
    [
        (3, 5, True),
        (3, 15, True),
        (3, 4, False),
        (3, 16, False),
        (4, 256, True),
        (4, 257, False),
        (4, 100, True),
    ],
)
def test_a_weight_stays_within_the_percentage_of_what_was_approved(
    last: int, weight: int, allowed: bool
) -> None:
    why_not = why_not_override(HEAVY, (), override(last, weight=weight), ONE_LEFT)

    assert (why_not is None) is allowed
    assert why_not is None or "The approved weight of" in why_not


def test_the_percentage_counts_from_the_approved_weight_and_not_from_the_last_override() -> None:
    now = [override(3, weight=15)]

    assert why_not_override(HEAVY, now, override(3, weight=20), ONE_LEFT) is not None
    assert weight_range(approved=1, policy=ONE_LEFT) == (1, 1)
    assert weight_range(approved=1, policy=OperationPolicy(override_weight_percent=300)) == (1, 4)


def test_a_backend_that_is_not_there_is_refused_and_one_that_went_has_no_effect() -> None:
    assert why_not_override(WEB, (), drained(99), ONE_LEFT) is not None
    assert why_not_override(WEB, (), drained(3, service="gone"), ONE_LEFT) is not None
    assert with_overrides(WEB, [drained(99)]) == WEB
    assert "has no backend" in (why_without_effect(WEB, [drained(99)], drained(99)) or "")
    assert why_without_effect(WEB, [drained(3)], drained(3)) is None


def test_weights_that_round_robin_cannot_count_are_refused_and_dropped_when_a_change_made_them_so() -> None:
    wide = OperationPolicy(override_weight_percent=300)
    data = [backend_data(f"10.0.0.{n}", weight=200) for n in range(3, 10)]
    big = document(service_data(backends=data))
    asked = override(3, weight=199)

    why_not = why_not_override(big, (), asked, wide)
    assert why_not is not None
    assert "round-robin counts to" in why_not
    (web,) = with_overrides(big, [asked, drained(4)]).services
    assert [b.weight for b in web.backends] == [200] * 7, "the weight is dropped"
    assert len(web.usable_backends) == 6, "the drain is not"
    assert "the scheduler cannot share like that" in (
        why_without_effect(big, [asked, drained(4)], asked) or ""
    )
    assert service_with_overrides(big.services[0], [drained(4)]) == web


def test_draining_the_first_of_a_failover_leaves_a_valid_service_in_which_the_next_takes_over() -> None:
    data = [backend_data("10.0.0.3"), *(backend_data(f"10.0.0.{n}", priority=n) for n in (4, 5))]
    web = document(service_data(scheduler="failover", backends=data)).services[0]

    drained_first = service_with_overrides(web, [drained(3)])

    assert validate_parsed({"": drained_first}) == ()
    assert [backend.endpoint for backend in scheduled(web)] == ["10.0.0.3:80"]
    assert [backend.endpoint for backend in scheduled(drained_first)] == ["10.0.0.4:80"]


def test_a_weight_of_which_source_hash_could_not_make_a_whole_part_is_refused() -> None:
    wide = OperationPolicy(override_weight_percent=300)
    weights = {3: 1, 4: 256, 5: 256, 6: 256, 7: 255}
    data = [backend_data(f"10.0.0.{last}", weight=weight) for last, weight in weights.items()]
    service = document(service_data(scheduler="source-hash", backends=data))

    why_not = why_not_override(service, (), override(7, weight=256), wide)

    assert "would get less than one" in (why_not or "")
