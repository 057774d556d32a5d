"""Ranges of ports among many others: each of their ports is found, wherever the range begins and ends."""

from ipaddress import ip_address
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from balancer.domain.types import Protocol
from balancer.ruleset.compile import compile_document
from balancer.ruleset.matching import Packet
from balancer.ruleset.trace import trace_packet
from tests.documents import document, service_data


@settings(max_examples=60)
@given(st.sets(st.integers(1, 65_535), min_size=2, max_size=24).map(sorted), st.booleans())
@example([1000 + 25 * i for i in range(20)], True)
def test_the_first_and_the_last_port_of_every_range_lead_to_its_service(
    edges: list[int], apart: bool
) -> None:
    """Every range ends before the next begins; `apart` leaves out every other one."""
    ranges = [(first, end - 1) for first, end in pairwise(edges)][:: 2 if apart else 1]
    one = document(
        *(service_data(f"s{i}", port=first, port_end=last) for i, (first, last) in enumerate(ranges))
    )
    ruleset = compile_document(one)

    def found_at(port: int) -> str | None:
        return trace_packet(
            ruleset,
            Packet(
                interface="eth0",
                protocol=Protocol.TCP,
                source=None,
                destination=ip_address("203.0.113.1"),
                port=port,
            ),
        ).service

    for i, (first, last) in enumerate(ranges):
        assert {found_at(port) for port in {first, (first + last) // 2, last}} == {f"s{i}"}
    outside = {edges[0] - 1, edges[-1]} | ({last + 1 for _, last in ranges} if apart else set())
    assert {found_at(port) for port in outside if 0 < port < 65_536} <= {None}
