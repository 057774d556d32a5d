"""The shares that backends get, by the tracer and by counting."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.types import Backend, Document
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Chance, Nth, Rule, TableName
from balancer.ruleset.names import service_chain
from balancer.ruleset.schedulers import cycle, promised_shares
from balancer.ruleset.targets import Dnat, Goto
from balancer.ruleset.trace import trace_service
from tests.documents import backend_data, document, documents, service_data
from tests.ruleset.walks import longest_walk


def with_weights(weights: list[int], scheduler: str = "round-robin") -> Document:
    backends = [backend_data(f"10.0.{i // 250}.{i % 250 + 1}", weight=w) for i, w in enumerate(weights)]
    return document(service_data(protocol="udp", backends=backends, scheduler=scheduler))


class NthCounters:
    """Plays the statistic module: one counter a rule, as net/netfilter/xt_statistic.c keeps them."""

    def __init__(self, one: Document) -> None:
        self._chains = compile_document(one).table(TableName.NAT).chains
        self._seen: Counter[tuple[str, int]] = Counter()

    def connect(self, chain: str = service_chain("web")) -> str:
        for index, rule in enumerate(self._chains[chain]):
            if self._hit(chain, index, rule):
                match rule.target:
                    case Dnat(address, port):
                        return f"{address}:{port}"
                    case Goto(to):
                        return self.connect(to)
        raise AssertionError("the connection was lost")

    def _hit(self, chain: str, index: int, rule: Rule) -> bool:
        if rule.not_syn:
            return False  # every connection here begins as it should
        if rule.statistic is None:
            return True
        assert isinstance(rule.statistic, Nth)
        seen = self._seen[chain, index]
        self._seen[chain, index] += 1
        return seen % rule.statistic.every == rule.statistic.packet


@given(st.lists(st.integers(1, 10), min_size=1, max_size=12))
def test_round_robin_is_exact_in_every_whole_cycle_and_in_the_order_of_the_cycle(weights: list[int]) -> None:
    one = with_weights(weights)
    order = [backend.endpoint for backend in cycle(one.services[0].usable_backends)]
    kernel = NthCounters(one)
    assert [kernel.connect() for _ in range(3 * len(order))] == order * 3
    counts = Counter(order)
    shares = promised_shares(one.services[0])
    assert {end: Fraction(n, len(order)) for end, n in counts.items()} == shares


@pytest.mark.parametrize("count", [11, 13, 127, 509, 1021, 1024])
def test_round_robin_is_exact_for_numbers_of_turns_that_do_not_split_well(count: int) -> None:
    one = with_weights([1] * count)
    kernel = NthCounters(one)
    turns = Counter(kernel.connect() for _ in range(2 * count))
    assert set(turns.values()) == {2}
    assert len(turns) == count


def test_the_heavy_backend_is_spread_evenly_over_the_cycle() -> None:
    one = with_weights([3, 1, 1, 1])
    order = [str(backend.address) for backend in cycle(one.services[0].usable_backends)]
    assert order == ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.1"]


@given(documents(max_services=6))
def test_traced_shares_are_the_promised_ones_and_nothing_is_lost(one: Document) -> None:
    for service in one.services:
        if not service.enabled:
            continue
        trace = trace_service(one, service)
        assert trace.service == service.name
        assert trace.shares == promised_shares(service)
        assert trace.refused == (0 if service.usable_backends else 1)
        assert sum(trace.shares.values()) + trace.refused == 1
        assert (trace.unmatched, trace.dropped) == (0, 0)
        wanted = service.source_nat.mode == "masquerade" and bool(service.usable_backends)
        assert trace.masqueraded == wanted


@given(st.lists(st.integers(1, 256), min_size=1, max_size=60))
def test_random_shares_are_the_weights_at_any_depth_of_the_tree(weights: list[int]) -> None:
    one = with_weights(weights, "random")
    trace = trace_service(one, one.services[0])
    assert trace.shares == promised_shares(one.services[0])


def test_each_random_rule_takes_its_share_of_what_is_left() -> None:
    chain = compile_document(with_weights([1, 1, 1, 1], "random")).table(TableName.NAT).chains["LB-S-web"]
    shares = [rule.statistic.share for rule in chain if isinstance(rule.statistic, Chance)]
    assert shares == [Fraction(1, 4), Fraction(1, 3), Fraction(1, 2)]


@pytest.mark.parametrize(("scheduler", "longest"), [("round-robin", 45), ("random", 45)])
def test_a_thousand_backends_are_chosen_from_in_a_tree(scheduler: str, longest: int) -> None:
    one = with_weights([1] * 1000, scheduler)
    ruleset = compile_document(one).table(TableName.NAT).chains
    assert max(len(rules) for rules in ruleset.values()) <= 9
    assert longest_walk(ruleset, "LB-S-web") <= longest


@pytest.mark.parametrize("state", ["draining", "disabled"])
def test_a_backend_that_is_not_enabled_gets_no_new_connection(state: str) -> None:
    backends = [backend_data("10.0.0.3"), backend_data("10.0.0.4", state=state)]
    one = document(service_data(backends=backends))
    assert trace_service(one, one.services[0]).shares == {"10.0.0.3:80": Fraction(1)}


def test_backends_may_listen_on_another_port() -> None:
    one = document(service_data(backends=[backend_data(port=8080)]))
    assert trace_service(one, one.services[0]).shares == {"10.0.0.3:8080": Fraction(1)}


def test_a_cycle_of_one_backend_is_that_backend() -> None:
    (backend,) = with_weights([7]).services[0].usable_backends
    assert cycle((backend,)) == (backend,)
    assert isinstance(backend, Backend)
