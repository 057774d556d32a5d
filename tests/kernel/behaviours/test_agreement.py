"""The tracer and the kernel agree on what becomes of packets, for arbitrary documents."""

import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import lcm

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from balancer.domain.types import (
    Address,
    Document,
    PersistenceMode,
    Protocol,
    Scheduler,
    Service,
    format_endpoint,
)
from balancer.ruleset.matching import Packet
from balancer.ruleset.trace import Trace, trace_packet
from tests.documents import INTERFACES, SCENES, any_carried
from tests.kernel.behaviours.lab import Flow, Lab
from tests.kernel.behaviours.machines import LAN
from tests.kernel.behaviours.packets import Seen
from tests.ruleset.definition import arrival, packets_to, sets_with, taking

DOCUMENTS = 200 if os.environ.get("LBADMIN_CAMPAIGN") else 3
"""For each flavour and family."""
PLACES = 4
"""Of each service that are tried."""
EXACT = {Scheduler.ROUND_ROBIN, Scheduler.FAILOVER}


@given(data=st.data())
@settings(
    max_examples=DOCUMENTS,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_the_tracer_and_the_kernel_agree_on_arbitrary_documents(bare_lab: Lab, data: st.DataObject) -> None:
    lab = bare_lab
    one = renamed(data.draw(any_carried(lab.family, proxies=False)), f"d{lab.carried}")
    lab.carry_document(one)
    lab.forget_connections()
    # One without address and backends is of IPv4, whatever is around it.
    services = [service for service in one.services if service.family is lab.family]
    packets = [
        packet
        for service in services
        for packet in data.draw(st.permutations(list(packets_to(service))))[:PLACES]
    ]
    packets += data.draw(st.lists(strays(lab), max_size=3))
    for packet in packets:
        agree_on(lab, one, packet)
    for service in services:
        agree_on_its_own_backends(lab, service)


def renamed(one: Document, prefix: str) -> Document:
    """So that nothing which the document before left in the kernel counts."""

    def name(found: str | None) -> str | None:
        return None if found is None else f"{prefix}-{found}"

    services = (
        replace(s, name=f"{prefix}-{s.name}", all_down_service=name(s.all_down_service)) for s in one.services
    )
    return replace(one, services=tuple(services))


def strays(lab: Lab) -> st.SearchStrategy[Packet]:
    return st.builds(
        Packet,
        interface=st.sampled_from([*INTERFACES, None]),
        protocol=st.sampled_from(list(Protocol)),
        source=st.none(),
        destination=st.sampled_from([ip_address(text) for text in SCENES[lab.family].virtual]),
        port=st.integers(7990, 8100),
    )


def agree_on(lab: Lab, one: Document, packet: Packet) -> None:
    """Whole rounds of flows to one place, and what becomes of the same clients afterwards."""
    # Not the address of masquerade, where a client's port could be taken: docs/behaviours.md, shifted ranges.
    node = ip_address(lab.own())
    clients = [node] if packet.interface is None else lab.strangers(1)
    traced = trace_packet(lab.ruleset, replace(packet, source=clients[0]))
    service = next((taking(one, s) for s in one.services if s.name == traced.service), None)
    count = flows_for(service, traced)
    clients = [node] * count if packet.interface is None else clients + lab.strangers(count - 1)
    seen = send(lab, packet, clients)
    traces = [trace_packet(lab.ruleset, replace(packet, source=client)) for client in clients]
    for trace, client, was in zip(traces, clients, seen, strict=True):
        assert_possible(lab.places.inside, trace, client, was, packet)
    if service is None or traced.refused == 1 or traced.dropped == 1:
        return
    known = packet.interface is None and service.persistence.mode is PersistenceMode.SOURCE
    if service.scheduler in EXACT and not known:
        assert_exact(traced, seen)
    if service.persistence.mode is PersistenceMode.SOURCE:
        ends = assert_kept(lab, service, packet, clients, seen)
        assert not known or len(set(ends)) == 1, "the node itself is one client"


def flows_for(service: Service | None, traced: Trace) -> int:
    if service is None or traced.refused == 1 or traced.dropped == 1:
        return 2
    if service.scheduler in EXACT:
        return lcm(*(share.denominator for share in traced.shares.values()))
    return 16


def send(lab: Lab, packet: Packet, clients: list[Address]) -> list[Seen | None]:
    return lab.send(
        [
            Flow(
                protocol=packet.protocol,
                source=client,
                destination=packet.destination,
                port=packet.port,
                interface=packet.interface,
            )
            for client in clients
        ]
    )


def assert_possible(inside: str, trace: Trace, client: Address, was: Seen | None, packet: Packet) -> None:
    """The flow ended where the tracer says that it can, with the source that it says."""
    if trace.unmatched == 1:
        # Nobody listens on the node itself, which says so to its own programs.
        assert was is None or (was.refusal and packet.interface is None), (packet, was)
    elif trace.dropped == 1:
        assert was is None, (packet, was)
    elif trace.refused == 1:
        assert was is not None, packet
        assert was.refusal, (packet, was)
    else:
        assert trace.refused == trace.unmatched == trace.dropped == 0
        assert was is not None, packet
        assert not was.refusal, (packet, was)
        assert endpoint(was) in trace.shares, (packet, was)
        assert is_source(inside, trace, client, was.source), (packet, was)


def endpoint(was: Seen) -> str:
    return format_endpoint(address=was.destination, port=was.port)


def is_source(inside: str, trace: Trace, client: Address, source: IPv4Address | IPv6Address) -> bool:
    if trace.masqueraded:
        return str(source) == inside
    if trace.rewritten_to is None:
        return source == client
    first, _, last = trace.rewritten_to.partition("-")
    return int(ip_address(first)) <= int(source) <= int(ip_address(last or first))


def assert_exact(traced: Trace, seen: list[Seen | None]) -> None:
    counts = Counter(endpoint(was) for was in seen if was is not None)
    assert counts == {end: share * len(seen) for end, share in traced.shares.items()}


def assert_kept(
    lab: Lab, service: Service, packet: Packet, clients: list[Address], seen: list[Seen | None]
) -> list[str]:
    """Clients that are known go where the tracer says that known ones go."""
    again = send(lab, packet, clients)
    ends = []
    for client, before, after in zip(clients, seen, again, strict=True):
        assert before is not None
        assert after is not None
        sets = remembered_in(service, before, packet.port)
        known = trace_packet(lab.ruleset, replace(packet, source=client, known_in=sets))
        assert known.shares == {endpoint(before): 1}
        assert endpoint(after) == endpoint(before), (packet, client)
        ends.append(endpoint(after))
    return ends


def remembered_in(service: Service, was: Seen, asked: int) -> frozenset[str]:
    """The sets in which the clients of the backend are where the flow ended."""
    for backend in service.backends:
        if arrival(service, backend, asked) == endpoint(was):
            return sets_with(service, backend)
    raise AssertionError(f"{was} ended at no backend of {service.name}")


def agree_on_its_own_backends(lab: Lab, service: Service) -> None:
    """A backend that uses its own service."""
    if not service.enabled or LAN not in service.interfaces or not service.backends:
        return
    packet = replace(next(packets_to(service)), interface=LAN, source=service.backends[0].address)
    trace = trace_packet(lab.ruleset, packet)
    (was,) = send(lab, packet, [service.backends[0].address])
    assert_possible(lab.places.inside, trace, service.backends[0].address, was, packet)


PACKET = Packet(
    interface="eth0",
    protocol=Protocol.UDP,
    source=ip_address("192.0.2.1"),
    destination=ip_address("203.0.113.1"),
    port=80,
)
HALVES = Trace(
    service="web",
    shares={"10.1.0.1:80": Fraction(1, 2), "10.1.0.2:80": Fraction(1, 2)},
    refused=Fraction(0),
    dropped=Fraction(0),
    unmatched=Fraction(0),
    masqueraded=True,
    rewritten_to=None,
    steps=(),
)
INSIDE = "10.0.0.1"


def seen_at(address: str, *, source: str = INSIDE, refusal: bool = False, port: int = 80) -> Seen:
    return Seen(
        number=1,
        refusal=refusal,
        protocol=Protocol.UDP,
        source=ip_address(source),
        destination=ip_address(address),
        port=port,
    )


@pytest.mark.parametrize(
    "was",
    [
        None,
        seen_at("10.1.0.3"),
        seen_at("10.1.0.1", port=81),
        seen_at("10.1.0.1", source="192.0.2.1"),
        seen_at("10.1.0.1", refusal=True),
    ],
    ids=["lost", "another backend", "another port", "not masqueraded", "refused"],
)
def test_the_comparison_notices_a_wrong_end(was: Seen | None) -> None:
    """The agreement is worth something only if a disagreement fails."""
    with pytest.raises(AssertionError):
        assert_possible(INSIDE, HALVES, PACKET.source, was, PACKET)


def test_the_comparison_notices_a_wrong_share_and_an_answer_where_none_should_be() -> None:
    first, second = seen_at("10.1.0.1"), seen_at("10.1.0.2")
    assert_exact(HALVES, [first, second])
    with pytest.raises(AssertionError):
        assert_exact(HALVES, [first, first, first, second])
    nobody = replace(HALVES, shares={}, unmatched=Fraction(1), masqueraded=False)
    for was in (first, replace(first, refusal=True)):
        with pytest.raises(AssertionError):
            assert_possible(INSIDE, nobody, PACKET.source, was, PACKET)
