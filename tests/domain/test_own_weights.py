"""What a node remembers of its own weights, and what it lays over a document because of that."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.balancing import WHOLE
from balancer.domain.moving import advance_ramps, move_towards_balance
from balancer.domain.own_weights import (
    Memory,
    Moved,
    Remembered,
    carried,
    digest_own_weights,
    own_weights,
    with_own_weights,
)
from balancer.domain.types import Document, Service
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import TableName
from balancer.ruleset.schedulers import promised_shares
from tests.documents import Data, backend_data, document, service_data

NOW = datetime(2026, 11, 28, tzinfo=UTC)
ONE, TWO, THREE, FOUR = (f"10.0.0.{last}:80" for last in range(3, 7))


def web(
    *states: str, scheduler: str = "random", slow_start: int = 80, weights: tuple[int, ...] = ()
) -> Document:
    states = states or ("enabled",) * 4
    weights = weights or (1,) * len(states)
    backends: list[Data] = [
        backend_data(f"10.0.0.{3 + i}", state=state, weight=weight)
        for i, (state, weight) in enumerate(zip(states, weights, strict=True))
    ]
    return document(
        service_data("web", scheduler=scheduler, slow_start=slow_start, backends=backends),
        service_data("other", port=81),
    )


def shares(found: Document, memory: Memory) -> dict[str, Fraction]:
    laid = with_own_weights(found, own_weights(found, memory))
    return dict(promised_shares(service_of(laid)))


def service_of(found: Document) -> Service:
    return next(service for service in found.services if service.name == "web")


def test_a_node_that_is_new_ramps_nobody() -> None:
    assert own_weights(web(), Memory()) == {}
    assert carried(web(), Memory(), now=NOW).services == {}


def test_a_backend_that_comes_back_begins_at_an_eighth_of_its_weight() -> None:
    before = carried(web("draining", "enabled", "enabled", "enabled"), Memory(), now=NOW)

    assert shares(web(), before) == {
        ONE: Fraction(1, 25),
        TWO: Fraction(8, 25),
        THREE: Fraction(8, 25),
        FOUR: Fraction(8, 25),
    }


def test_that_the_node_carries_it_moves_nothing_but_starts_the_time() -> None:
    before = carried(web("disabled", "enabled"), Memory(), now=NOW)

    after = carried(web("enabled", "enabled"), before, now=NOW)

    assert (
        own_weights(web("enabled", "enabled"), after) == own_weights(web("enabled", "enabled"), before) != {}
    )
    assert after.services["web"].ramps[ONE].since == NOW.isoformat()
    assert carried(web("enabled", "enabled"), after, now=NOW + timedelta(hours=1)) == after


def test_it_rises_in_equal_steps_and_is_as_declared_in_the_end() -> None:
    found = web("enabled", "enabled", weights=(1, 3))
    memory = carried(found, carried(web("disabled", "enabled", weights=(1, 3)), Memory(), now=NOW), now=NOW)
    seen = []
    for seconds in range(0, 81, 10):
        memory, _ = advance_ramps(memory, [service_of(found)], now=NOW + timedelta(seconds=seconds))
        share = shares(found, memory)[ONE]
        seen.append(share / (1 - share) * 3)

    assert seen == [Fraction(step, 8) for step in (1, 2, 3, 4, 5, 6, 7, 8, 8)]
    assert own_weights(found, memory) == {}
    assert memory.services["web"].ramps == {}


def test_a_clock_that_goes_back_takes_no_step_back() -> None:
    found = web("enabled", "enabled")
    memory = carried(found, carried(web("disabled", "enabled"), Memory(), now=NOW), now=NOW)
    memory, why = advance_ramps(memory, [service_of(found)], now=NOW + timedelta(seconds=25))
    assert why == {("web", ONE): f"{ONE} came back and rises over 80 seconds: step 3 of 8"}

    again, why = advance_ramps(memory, [service_of(found)], now=NOW - timedelta(hours=1))

    assert (again, why) == (memory, {})


def test_a_backend_that_goes_again_begins_anew_when_it_is_back() -> None:
    found = web("enabled", "enabled", "enabled")
    without = web("disabled", "enabled", "enabled")
    memory = carried(found, carried(without, Memory(), now=NOW), now=NOW)
    memory, _ = advance_ramps(memory, [service_of(found)], now=NOW + timedelta(seconds=45))

    memory = carried(without, memory, now=NOW)

    assert shares(found, memory)[ONE] == Fraction(1, 17)


def test_without_slow_start_nobody_ramps() -> None:
    before = carried(web("disabled", "enabled", slow_start=0), Memory(), now=NOW)

    assert own_weights(web("enabled", "enabled", slow_start=0), before) == {}


def test_a_service_that_is_enabled_again_ramps_nobody() -> None:
    off = Document(services=tuple(replace(s, enabled=False) for s in web().services))

    assert own_weights(web(), carried(off, carried(web(), Memory(), now=NOW), now=NOW)) == {}


def test_weights_that_are_as_declared_compile_to_the_same_bytes_as_none() -> None:
    found = web(scheduler="least-connections", slow_start=0, weights=(1, 2, 3, 4))
    loads = {ONE: 100, TWO: 200, THREE: 300, FOUR: 400}

    memory, why = move_towards_balance(Memory(), service_of(found), loads, trend=True)

    assert (own_weights(found, memory), why) == ({}, {})
    assert digest_own_weights(own_weights(found, memory)) == ""


def moved(found: Document, loads: dict[str, int], memory: Memory | None = None) -> Memory:
    memory, _ = move_towards_balance(memory or Memory(), service_of(found), loads, trend=True)
    return memory


def test_a_move_says_why_in_words_and_changes_this_service_alone() -> None:
    found = web(scheduler="least-connections", slow_start=0)
    loads = {ONE: 300, TWO: 100, THREE: 100, FOUR: 100}

    memory, why = move_towards_balance(Memory(), service_of(found), loads, trend=True)

    assert why["web", ONE] == f"{ONE} has 300 of 600 connections, its weight says 150"
    weights = own_weights(found, memory)
    assert set(weights) == {"web"}
    assert shares(found, memory)[ONE] < Fraction(1, 4)
    laid, plain = with_own_weights(found, weights), found
    chains, plain_chains = (compile_document(d).table(TableName.NAT).chains for d in (laid, plain))
    assert [name for name in chains if chains[name] != plain_chains[name]] == ["LB-S-web"]


def test_a_weight_that_is_declared_anew_keeps_its_proportion_to_what_is_declared() -> None:
    found = web("enabled", "enabled", scheduler="least-connections", slow_start=0)
    memory = moved(found, {ONE: 400, TWO: 100})
    before = shares(found, memory)

    after = shares(
        web("enabled", "enabled", scheduler="least-connections", slow_start=0, weights=(2, 2)), memory
    )

    assert after == before
    assert before[ONE] < Fraction(1, 2)


def test_other_schedulers_carry_what_is_declared_whatever_is_remembered() -> None:
    memory = moved(web(scheduler="least-connections"), {ONE: 400, TWO: 100})

    assert own_weights(web(scheduler="round-robin", slow_start=0), memory) == {}
    assert own_weights(web(slow_start=0), memory) == {}


def test_a_backend_that_rises_is_left_out_of_the_balance() -> None:
    found = web(scheduler="least-connections")
    memory = carried(web("disabled", *["enabled"] * 3, scheduler="least-connections"), Memory(), now=NOW)
    memory = carried(found, memory, now=NOW)

    memory = moved(found, {ONE: 0, TWO: 300, THREE: 100, FOUR: 100}, memory)

    share = shares(found, memory)
    assert share[ONE] == Fraction(1, 25), "it has few connections on purpose"
    assert share[TWO] < min(share[THREE], share[FOUR])


@given(st.data())
def test_what_is_remembered_gives_the_same_weights_after_a_restart_and_after_it_was_carried(
    data: st.DataObject,
) -> None:
    states = data.draw(st.lists(st.sampled_from(["enabled", "enabled", "draining"]), min_size=4, max_size=4))
    weights = tuple(data.draw(st.lists(st.integers(1, 256), min_size=4, max_size=4)))
    found = web(*states, scheduler="least-connections", weights=weights)
    endpoint = st.sampled_from([ONE, TWO, THREE, FOUR])
    factor = st.integers(WHOLE // 4, WHOLE * 4)
    before = data.draw(st.dictionaries(endpoint, st.tuples(st.integers(1, 256), factor)))
    kept = {e: Moved(declared=d, weight=d * f, aim=d * f, count=3) for e, (d, f) in before.items()}
    taking = {"web": tuple(data.draw(st.lists(endpoint, unique=True)))}
    memory = Memory(taking=taking, services={"web": Remembered(moved=kept)})

    after = carried(found, memory, now=NOW)

    weights_then = own_weights(found, memory)
    assert own_weights(found, after) == weights_then
    restored = {name: Remembered.from_data(value.to_data()) for name, value in after.services.items()}
    assert Memory(taking=after.taking, services=restored) == after
