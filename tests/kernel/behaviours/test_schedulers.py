"""Which backend a new connection gets, scheduler by scheduler."""

from fractions import Fraction
from ipaddress import ip_address

from balancer.domain.types import Protocol, Scheduler
from balancer.ruleset.matching import Packet
from balancer.ruleset.trace import trace_packet
from tests.chance import CHANCE, p_of_counts
from tests.kernel.behaviours.lab import Lab, by_backend
from tests.kernel.behaviours.packets import Seen
from tests.kernel.behaviours.services import HUNDRED, SCHEDULED, WEIGHTS, failing_over, services

FLOWS = 300


def shares_of(lab: Lab, scheduler: Scheduler, protocol: Protocol = Protocol.UDP) -> dict[str, int]:
    return dict(by_backend(lab.open(protocol, SCHEDULED[scheduler], lab.sources(FLOWS))))


def expected(lab: Lab) -> dict[str, int]:
    """By the weights."""
    return {lab.sink(n): FLOWS * weight // sum(WEIGHTS) for n, weight in enumerate(WEIGHTS, 1)}


def assert_likely(lab: Lab, counts: dict[str, int]) -> None:
    shares = {lab.sink(n): Fraction(weight, sum(WEIGHTS)) for n, weight in enumerate(WEIGHTS, 1)}
    assert p_of_counts(counts, shares) > CHANCE


def test_round_robin_is_exact_over_whole_rounds(lab: Lab) -> None:
    assert shares_of(lab, Scheduler.ROUND_ROBIN) == expected(lab)


def test_random_follows_the_weights(lab: Lab) -> None:
    assert_likely(lab, shares_of(lab, Scheduler.RANDOM))


def test_least_connections_starts_from_the_weights(lab: Lab) -> None:
    assert_likely(lab, shares_of(lab, Scheduler.LEAST_CONNECTIONS))


def traced(lab: Lab, seen: list[Seen | None], port: int) -> list[tuple[str, str]]:
    """(backend that the tracer says, backend that it was) of flows that `lab.sources` sent."""
    pairs = []
    for source, one in zip(lab.sources(len(seen)), seen, strict=True):
        packet = Packet(
            interface="eth0",
            protocol=Protocol.UDP,
            source=source,
            destination=ip_address(lab.own()),
            port=port,
        )
        shares = trace_packet(lab.ruleset, packet).shares
        assert list(shares.values()) == [Fraction(1)]
        assert one is not None
        ending = f":{one.port}"
        pairs.append((next(iter(shares)).removesuffix(ending).strip("[]"), str(one.destination)))
    return pairs


def test_source_hash_gives_the_backend_that_the_tracer_computes(lab: Lab) -> None:
    seen = lab.open(Protocol.UDP, SCHEDULED[Scheduler.SOURCE_HASH], lab.sources(FLOWS))
    pairs = traced(lab, seen, SCHEDULED[Scheduler.SOURCE_HASH])
    assert all(wanted == was for wanted, was in pairs)
    assert_likely(lab, dict(by_backend(seen)))


def test_source_hash_spreads_the_clients_of_one_network(lab: Lab) -> None:
    sources = [lab.source(number, network=5000) for number in range(200)]
    seen = lab.open(Protocol.UDP, SCHEDULED[Scheduler.SOURCE_HASH], sources)
    assert set(by_backend(seen)) == set(expected(lab))


def test_source_hash_gives_a_client_the_same_backend_over_every_protocol_and_again(lab: Lab) -> None:
    rounds = [
        [one and one.destination for one in lab.open(protocol, SCHEDULED[Scheduler.SOURCE_HASH], sources)]
        for sources in [lab.sources(100)]
        for protocol in (*Protocol, Protocol.TCP)
    ]
    assert None not in rounds[0]
    assert all(again == rounds[0] for again in rounds)


def test_failover_gives_all_connections_to_the_first_priority_and_shares_them_by_weight(lab: Lab) -> None:
    assert shares_of(lab, Scheduler.FAILOVER) == {lab.sink(11): 200, lab.sink(12): 100}


def test_failover_takes_over_and_gives_back(lab: Lab) -> None:
    lab.carry(*services(lab, failover_udp={"backends": failing_over(lab, first="disabled")}))
    assert shares_of(lab, Scheduler.FAILOVER) == {lab.sink(13): FLOWS}
    lab.carry(*services(lab))
    assert shares_of(lab, Scheduler.FAILOVER) == {lab.sink(11): 200, lab.sink(12): 100}


def assert_every_scheduler_carries(lab: Lab, protocol: Protocol) -> None:
    for scheduler in Scheduler:
        counts = shares_of(lab, scheduler, protocol)
        match scheduler:
            case Scheduler.ROUND_ROBIN:
                assert counts == expected(lab)
            case Scheduler.FAILOVER:
                assert counts == {lab.sink(11): 200, lab.sink(12): 100}
            case _:
                assert_likely(lab, counts)


def test_udp_is_balanced_by_every_scheduler(lab: Lab) -> None:
    assert_every_scheduler_carries(lab, Protocol.UDP)


def test_tcp_is_balanced_by_every_scheduler(lab: Lab) -> None:
    assert_every_scheduler_carries(lab, Protocol.TCP)


def test_sctp_is_balanced_by_every_scheduler(lab: Lab) -> None:
    assert_every_scheduler_carries(lab, Protocol.SCTP)


def test_one_service_spreads_exactly_over_a_hundred_backends(lab: Lab) -> None:
    counts = by_backend(lab.open(Protocol.UDP, HUNDRED, lab.sources(200)))
    assert counts == {lab.sink(number): 2 for number in range(101, 201)}
