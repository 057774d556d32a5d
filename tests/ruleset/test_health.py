"""The rules of services whose backends were found down: shares, refusals and who stands in."""

from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.health_overlay import HealthOverlay, with_health
from balancer.domain.types import BackendState, Document, Family, Protocol, Service
from balancer.ruleset.compile import compile_document
from balancer.ruleset.matching import Packet
from balancer.ruleset.parse import parse_ruleset
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.schedulers import promised_shares
from balancer.ruleset.trace import Trace, trace_packet
from tests.documents import backend_data, document, service_data

TCP = {"kind": "tcp"}
LAST = range(3, 9)


def two(*, scheduler: str, **fields: Any) -> Document:
    backends = [backend_data(f"10.0.0.{n}", port=80, weight=n % 3 + 1) for n in LAST]
    web = service_data("web", backends=backends, scheduler=scheduler, health=TCP, **fields)
    other = [backend_data("10.9.0.1", port=99), backend_data("10.9.0.2", port=98, weight=3)]
    return document(web, service_data("sorry", port=8080, interface="eth9", backends=other))


def down(found: Document, *last: int) -> Document:
    endpoints = tuple(sorted(f"10.0.0.{n}:80" for n in last))
    return with_health(found, HealthOverlay(down={"web": endpoints} if endpoints else {}))


def trace(found: Document) -> Trace:
    packet = Packet(
        interface="eth0",
        protocol=Protocol.TCP,
        source=None,
        destination=ip_address("192.0.2.80"),
        port=80,
    )
    return trace_packet(compile_document(found), packet)


@given(
    st.sampled_from(["round-robin", "random", "source-hash", "least-connections"]),
    st.sets(st.sampled_from(LAST), max_size=5),
)
def test_the_rules_give_those_that_are_left_their_shares_and_nothing_is_lost(
    scheduler: str, gone: set[int]
) -> None:
    left = down(two(scheduler=scheduler), *gone)

    shares = dict(trace(left).shares)

    assert shares == promised_shares(next(s for s in left.services if s.name == "web"))
    assert sum(shares.values()) == 1


def test_a_service_that_stands_in_gets_all_of_the_connections_in_its_own_shares() -> None:
    found = two(scheduler="random", all_down="service", all_down_service="sorry")
    traced = trace(down(found, *LAST))

    assert dict(traced.shares) == {"10.9.0.1:99": Fraction(1, 4), "10.9.0.2:98": Fraction(3, 4)}
    assert traced.refused == 0


def test_a_service_that_stands_in_and_has_nobody_itself_refuses() -> None:
    found = two(scheduler="random", all_down="service", all_down_service="sorry")
    services = [s if s.name == "web" else _drained(s) for s in down(found, *LAST).services]

    assert trace(Document(services=tuple(services))).refused == 1


def _drained(service: Service) -> Service:
    backends = tuple(replace(b, state=BackendState.DRAINING) for b in service.backends)
    return replace(service, backends=backends)


def test_rules_that_lead_to_another_service_are_read_back_as_they_were_written() -> None:
    ruleset = compile_document(
        down(two(scheduler="random", all_down="service", all_down_service="sorry"), *LAST)
    )
    assert parse_ruleset(render_ruleset(ruleset), family=Family.IPV4) == ruleset
