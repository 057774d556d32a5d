"""What the rules of any document promise, with every scheduler and option."""

from collections import Counter
from fractions import Fraction
from ipaddress import ip_address
from itertools import product
from math import lcm
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.domain.types import (
    Document,
    Family,
    Protocol,
    Service,
    SourceNatMode,
    format_endpoint,
)
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Nth, Ruleset, TableName
from balancer.ruleset.matching import Packet
from balancer.ruleset.parse import parse_ruleset
from balancer.ruleset.reasons import reason_of
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.schedulers import LIST_MAX, promised_shares
from balancer.ruleset.service import keepers
from balancer.ruleset.targets import Dnat, Goto
from balancer.ruleset.trace import Trace, trace_packet
from balancer.ruleset.turns import turned, without_phase
from tests.documents import SCENES, any_carried, any_documents
from tests.ruleset.definition import arrival, expected_service, packets_to, sets_with, taking

FAMILIES = st.sampled_from(list(Family))


def shares_at(service: Service, port: int) -> dict[str, Fraction]:
    """What is promised, by the endpoints where connections to `port` arrive."""
    ends = {backend.endpoint: arrival(service, backend, port) for backend in service.backends}
    return {ends[end]: share for end, share in promised_shares(service).items()}


def assert_promises(one: Document, service: Service, trace: Trace, port: int) -> None:
    assert trace.service == service.name
    service = taking(one, service)
    assert trace.shares == shares_at(service, port)
    assert trace.refused == (0 if service.usable_backends else 1)
    assert (trace.unmatched, trace.dropped) == (0, 0)
    nat = service.source_nat
    balanced = bool(service.usable_backends)
    assert trace.masqueraded == (balanced and nat.mode is SourceNatMode.MASQUERADE)
    pool = None if nat.address_end is None else f"{nat.address}-{nat.address_end}"
    wanted = (pool or str(nat.address)) if balanced and nat.mode is SourceNatMode.SNAT else None
    assert trace.rewritten_to == wanted


@given(any_carried())
@settings(max_examples=25, deadline=None)
def test_at_every_place_of_a_service_the_traced_shares_are_the_promised_ones(one: Document) -> None:
    rulesets = {family: compile_document(one, family=family) for family in Family}
    for service in one.services:
        for packet in packets_to(service):
            trace = trace_packet(rulesets[service.family], packet)
            found = expected_service(one, packet)
            assert found is service or found is None or found.addresses or not service.enabled
            if found is None:
                assert (trace.service, trace.unmatched) == (None, 1)
            else:
                assert_promises(one, found, trace, packet.port)


@given(any_documents(), st.integers(-1, 12), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_packet_near_a_service_finds_the_one_that_it_is_for_and_no_other(
    one: Document, distance: int, local: bool
) -> None:
    for family in Family:
        addresses = [*SCENES[family].virtual, SCENES[family].backends.format(99)]
        ruleset = compile_document(one, family=family)
        edges = {ports.last + distance for service in one.services for ports in service.port_ranges}
        places = {(service.interface, service.protocol) for service in one.services} | {(None, Protocol.UDP)}
        for (interface, protocol), address, port in product(places, addresses, edges):
            packet = Packet(
                interface=interface,
                protocol=protocol,
                source=None,
                destination=ip_address(address),
                port=max(1, port),
                destination_local=local,
            )
            trace = trace_packet(ruleset, packet)
            service = expected_service(one, packet)
            assert trace.service == (service.name if service else None)
            assert trace.unmatched == (0 if service else 1)


@given(any_carried())
@settings(max_examples=30, deadline=None)
def test_a_client_that_is_known_goes_to_the_backend_that_has_it(one: Document) -> None:
    for service in one.services:
        ruleset = compile_document(one, family=service.family)
        for packet in list(packets_to(service))[:2] if service.enabled else []:
            if expected_service(one, packet) is not service:
                continue
            for backend in keepers(service):
                known = Packet(
                    interface=packet.interface,
                    protocol=packet.protocol,
                    source=None,
                    destination=packet.destination,
                    port=packet.port,
                    known_in=sets_with(service, backend),
                )
                port = service.backend_port(backend, packet.port)
                arrives = format_endpoint(address=backend.address, port=port)
                assert trace_packet(ruleset, known).shares == {arrives: Fraction(1)}


@given(any_documents(), FAMILIES)
@settings(max_examples=30, deadline=None)
def test_what_is_rendered_is_read_back_as_the_same_rules(one: Document, family: Family) -> None:
    ruleset = compile_document(one, family=family)
    text = render_ruleset(ruleset)
    assert parse_ruleset(text, family=family) == ruleset
    assert render_ruleset(parse_ruleset(text, family=family)) == text


class Counters:
    """Plays the statistic module on the chains of one service: as net/netfilter/xt_statistic.c counts."""

    def __init__(self, ruleset: Ruleset, chain: str) -> None:
        self._chains, self._start = ruleset.table(TableName.NAT).chains, chain
        self._seen: Counter[tuple[str, int]] = Counter()

    def round(self, length: int) -> list[Dnat]:
        return [self._connect(self._start) for _ in range(length)]

    def _connect(self, chain: str) -> Dnat:
        for index, rule in enumerate(self._chains[chain]):
            if not self._hits(chain, index, rule.statistic) or rule.clients is not None or reason_of(rule):
                continue
            if isinstance(rule.target, Dnat):
                return rule.target
            if isinstance(rule.target, Goto):
                return self._connect(rule.target.chain)
        raise AssertionError("the connection was lost")

    def _hits(self, chain: str, index: int, statistic: object) -> bool:
        if not isinstance(statistic, Nth):
            return True
        seen = self._seen[chain, index]
        self._seen[chain, index] += 1
        return seen % statistic.every == statistic.packet


@given(any_documents(), st.integers(0, 1 << 48))
@settings(max_examples=40, deadline=None)
def test_a_round_robin_that_goes_on_elsewhere_keeps_its_shares_and_each_chain_its_order(
    one: Document, done: int
) -> None:
    for family in Family:
        ruleset = compile_document(one, family=family)
        later = turned(ruleset, offset=lambda chain: done ^ crc32(chain.encode()))
        texts = [render_ruleset(each).splitlines() for each in (ruleset, later)]
        assert [*map(without_phase, texts[1])] == texts[0]
        for service in one.services:
            if not service.enabled or service.family is not family or not service.usable_backends:
                continue
            for packet in list(packets_to(service))[:1]:
                assert trace_packet(later, packet).shares == trace_packet(ruleset, packet).shares
            if service.scheduler in {"round-robin", "failover"}:
                assert_exact(
                    ruleset, later, service, done ^ crc32(names.service_chain(service.name).encode())
                )


def assert_exact(ruleset: Ruleset, later: Ruleset, service: Service, done: int) -> None:
    """Whatever was there before, as many connections as a cycle has are shared exactly."""
    chain = names.service_chain(service.name)
    length = lcm(*(share.denominator for share in promised_shares(service).values()))
    order = Counters(ruleset, chain).round(2 * length)
    found = Counters(later, chain)
    for _ in range(3):
        assert Counter(found.round(length)) == Counter(order[:length])
        found.round(1)
    if length <= LIST_MAX:
        at = done % length
        assert Counters(later, chain).round(length) == order[at : at + length], "one chain: the same order"
