"""What health checks lay over a document: who takes connections, and when a policy for too few holds."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.codec import dump_document
from balancer.domain.health_overlay import HealthOverlay, Standings, decide_overlay, with_health
from balancer.domain.limits import HASH_SLOTS
from balancer.domain.problem import errors
from balancer.domain.types import AllDown, Backend, Document, Health, HealthKind, Scheduler, Service
from balancer.domain.validation import validate_document
from balancer.ruleset.schedulers import promised_shares
from tests.documents import any_documents, backend_data, document, service_data

TCP = {"kind": "tcp"}
NOTHING = HealthOverlay()


@st.composite
def checked(draw: st.DrawFn) -> tuple[Document, Standings]:
    """Documents whose services are checked, and what the checks said."""
    found = draw(any_documents(max_services=4))
    services = [
        replace(
            service,
            health=Health(kind=draw(st.sampled_from([HealthKind.TCP, HealthKind.TCP, HealthKind.NONE]))),
            all_down=draw(st.sampled_from([AllDown.KEEP, AllDown.REFUSE])),
            healthy_min=draw(st.sampled_from([0, 0, 30, 100])),
        )
        for service in found.services
    ]
    standings = {
        (service.name, backend.endpoint): draw(st.sampled_from([True, False, None]))
        for service in services
        for backend in service.backends
    }
    return Document(services=tuple(services)), standings


def overlay(found: Document, standings: Standings) -> HealthOverlay:
    return decide_overlay(found, NOTHING, standings)


def follows_policy(service: Service, laid: HealthOverlay) -> bool:
    """Whether too few are healthy, told by another way than the code's."""
    enabled = [b.endpoint for b in service.backends if b.state == "enabled"]
    return service.name in laid.panic or set(enabled) <= set(laid.down.get(service.name, ()))


@given(checked())
def test_the_result_is_valid_and_the_document_itself_says_nothing_of_it(
    case: tuple[Document, Standings],
) -> None:
    before, standings = case

    after = with_health(before, overlay(before, standings))

    was = [p for p in errors(validate_document(before)) if p.code != "unused"]
    assert [p for p in errors(validate_document(after)) if p.code != "unused"] == was
    assert dump_document(after) == dump_document(before)


@given(checked())
def test_health_only_takes_away_and_never_undoes_what_an_operator_or_a_document_says(
    case: tuple[Document, Standings],
) -> None:
    before, standings = case
    after = with_health(before, overlay(before, standings))

    for was, now in zip(before.services, after.services, strict=True):
        assert set(b.endpoint for b in now.usable_backends) <= set(b.endpoint for b in was.usable_backends)
        for old, new in zip(was.backends, now.backends, strict=True):
            assert replace(new, up=True) == old
        if was.health.kind is HealthKind.NONE:
            assert now is was


@given(checked())
def test_the_shares_of_the_others_keep_their_proportions(case: tuple[Document, Standings]) -> None:
    before, standings = case
    laid = overlay(before, standings)

    for was, now in zip(before.services, with_health(before, laid).services, strict=True):
        old, new = promised_shares(was), promised_shares(now)
        if follows_policy(was, laid) or not set(new) <= set(old):
            continue  # failover has gone on to the next priority
        left = sum(old[endpoint] for endpoint in new)
        rounding = Fraction(1, HASH_SLOTS) if was.scheduler is Scheduler.SOURCE_HASH else 0
        for endpoint, share in new.items():
            assert abs(share - old[endpoint] / left) <= rounding * (1 + 1 / left)


@given(checked())
def test_with_keep_a_service_is_never_left_without_a_backend(case: tuple[Document, Standings]) -> None:
    before, standings = case
    laid = overlay(before, standings)

    for was, now in zip(before.services, with_health(before, laid).services, strict=True):
        if was.all_down is AllDown.KEEP:
            assert bool(now.usable_backends) is bool(was.usable_backends)
        if follows_policy(was, laid) and was.enabled and now is not was:
            kept = _kept(was, laid) if was.all_down is AllDown.KEEP else ()
            assert now.usable_backends == kept


def _kept(service: Service, laid: HealthOverlay) -> tuple[Backend, ...]:
    """All that people have enabled; of failover no tier whose backends are all down while another has one."""
    down, usable = laid.down.get(service.name, ()), service.usable_backends
    healthy = [backend for backend in usable if backend.endpoint not in down]
    if service.scheduler is not Scheduler.FAILOVER or not healthy:
        return usable
    serving = min(backend.priority for backend in healthy)
    return tuple(b for b in usable if b in healthy or b.priority == serving)


@given(checked())
def test_where_nobody_can_tell_what_was_laid_over_stays(case: tuple[Document, Standings]) -> None:
    before, standings = case
    laid = overlay(before, standings)

    again = decide_overlay(before, laid, {})

    assert again.down == laid.down
    assert set(again.panic) >= set(laid.panic), "who is in panic leaves it when clearly above"
    assert HealthOverlay.from_data(json.loads(json.dumps(laid.to_data()))) == laid
    assert (laid.digest == "") is (laid == NOTHING)


def ten(**fields: object) -> Document:
    backends = [backend_data(f"10.0.0.{last}") for last in range(1, 11)]
    return document(service_data("web", backends=backends, health=TCP, **fields))


def standings(up: int, of: int = 10) -> Standings:
    """The first `up` of them are up."""
    return {("web", f"10.0.0.{last}:80"): last <= up for last in range(1, of + 1)}


def walk(found: Document, *ups: int) -> list[bool]:
    """Whether the service is in panic after each of these counts of healthy backends."""
    laid, seen = NOTHING, []
    for up in ups:
        laid = decide_overlay(found, laid, standings(up))
        seen.append("web" in laid.panic)
    return seen


def test_a_service_is_in_panic_below_its_least_share_and_until_it_is_clearly_above() -> None:
    found = ten(healthy_min=50)

    assert walk(found, 6, 5, 4, 5, 6, 5) == [False, False, True, True, False, False]
    assert walk(ten(healthy_min=100), 10, 9, 10) == [False, True, False]
    assert walk(ten(healthy_min=95), 10, 9, 10) == [False, True, False]
    assert walk(ten(), 10, 1, 0, 1) == [False] * 4, "without a least share there is no panic"


@pytest.mark.parametrize(("policy", "left"), [("keep", 10), ("refuse", 0)])
def test_panic_is_met_by_the_policy_for_all_down(policy: str, left: int) -> None:
    found = ten(healthy_min=50, all_down=policy)

    (web,) = with_health(found, overlay(found, standings(3))).services

    assert len(web.usable_backends) == left


def test_in_panic_a_dead_first_priority_gets_nothing_while_a_later_one_is_healthy() -> None:
    backends = [backend_data(f"10.0.0.{last}", priority=0 if last <= 2 else 1) for last in range(1, 6)]
    found = document(
        service_data("web", scheduler="failover", backends=backends, health=TCP, healthy_min=80),
    )

    def takes(*healthy: int) -> list[str]:
        said = {("web", f"10.0.0.{last}:80"): last in healthy for last in range(1, 6)}
        laid = overlay(found, said)
        assert laid.panic == ("web",)
        return sorted(str(b.address) for b in promised_of(with_health(found, laid).services[0]))

    assert takes(3) == ["10.0.0.3", "10.0.0.4", "10.0.0.5"], "all of the priority that has a healthy one"
    assert takes(1, 3) == ["10.0.0.1", "10.0.0.2"]
    assert takes() == ["10.0.0.1", "10.0.0.2"]


def promised_of(service: Service) -> list[Backend]:
    """Who gets new connections."""
    shares = promised_shares(service)
    return [backend for backend in service.backends if shares.get(backend.endpoint)]


def test_a_service_that_has_one_healthy_backend_left_uses_that_one_alone() -> None:
    (web,) = with_health(ten(), overlay(ten(), standings(1))).services

    assert [b.endpoint for b in web.usable_backends] == ["10.0.0.1:80"]
    assert web.stand_in is None


def test_another_service_stands_in_only_where_health_alone_leaves_nobody() -> None:
    sorry = service_data("sorry", port=81)
    policy = {"all_down": "service", "all_down_service": "sorry", "health": TCP}
    two = [backend_data("10.0.0.1"), backend_data("10.0.0.2", state="draining")]
    drained = [backend_data("10.0.0.1", state="draining"), backend_data("10.0.0.2", state="disabled")]

    def stands_in(backends: list[dict[str, object]], up: int) -> str | None:
        found = document(service_data("web", backends=backends, **policy), sorry)
        return with_health(found, overlay(found, standings(up, of=2))).services[1].stand_in

    assert stands_in(two, 0) == "sorry"
    assert stands_in(two, 1) is None
    assert stands_in(drained, 0) is None, "people took these away, and new connections are refused"


def test_a_backend_that_people_took_away_is_not_counted_as_healthy_or_not() -> None:
    backends = [backend_data("10.0.0.1"), backend_data("10.0.0.2")]
    backends += [backend_data(f"10.0.0.{last}", state="disabled") for last in range(3, 11)]
    found = document(service_data("web", backends=backends, health=TCP, healthy_min=50))

    assert overlay(found, standings(1)).panic == ()
    assert overlay(found, standings(0)).panic == ("web",)
