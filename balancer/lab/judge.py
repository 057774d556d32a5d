"""What counts of connections mean beside what a service promises. Pure; the statistics need no library."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import ip_address
from math import ceil, exp, lgamma, log, log1p, sqrt
from statistics import NormalDist

from balancer.domain.types import Network, Protocol, Scheduler, Service, SourceNatMode
from balancer.domain.validation import round_robin_slots
from balancer.lab.rehearsal import EndpointResult, Limits

FALSE_ALARMS = 1e-6
"""Chance that a whole rehearsal of correct rules fails over a share of `random`."""
MISSES = 0.01
WRONG_BY = Fraction(1, 4)
"""A share that is off by this part of itself is to be missed with a chance of `MISSES` at most."""
AT_ONCE_SECONDS = 1.0
REFUSED_DATAGRAMS = 5
"""The kernel sends few ICMP errors (net.ipv4.icmp_msgs_burst is 50 in all): more would time out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the connections to one service."""

    sent: int
    answered: Mapping[str, int]
    peers: Mapping[str, int]
    refused: int
    lost: int
    """Those refused are not in it."""
    slowest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    service: Service
    shares: Mapping[str, Fraction]
    """Endpoint -> promised share; empty when new connections are to be refused."""
    exact: bool
    """Whole cycles were sent, and each share is a whole number of them."""
    chance: float | None
    """Chance of a false alarm that each backend of `random` may cause; None: shares are not judged."""
    own: frozenset[str]
    """The balancer's own `address:port` for this service: who answers there was balanced by no rule."""
    balancer: str
    clients: Network


def choose_count(
    *, service: Service, shares: Mapping[str, Fraction], chance: float, limits: Limits, measured: int
) -> int:
    """How many connections show what one of `measured` touched services does."""
    if not shares:
        return REFUSED_DATAGRAMS if service.protocol is Protocol.UDP else limits.connections
    if service.scheduler is Scheduler.RANDOM:
        wanted = max(needed_connections(share=min(shares.values()), chance=chance), limits.connections)
        part = limits.connections_in_all // measured
        return min(wanted, max(limits.connections, min(limits.connections_most, part)))
    slots = round_robin_slots(tuple(b.weight for b in service.usable_backends))
    return slots * -(-limits.connections // slots)


def needed_connections(*, share: Fraction, chance: float) -> int:
    """To find a share that is wrong by `WRONG_BY` of itself; the only backend takes no more than one."""
    if share == 1:
        return 1
    return ceil(_reach(chance) ** 2 * (1 - share) / (share * WRONG_BY**2))


def found_error(*, shares: Mapping[str, Fraction], count: int, chance: float) -> float:
    """The part of its share by which the smallest backend must be off to be found."""
    share = min(shares.values())
    return _reach(chance) * sqrt((1 - share) / (share * count))


def _reach(chance: float) -> float:
    """Standard deviations from the promise at which an error is found with a chance of 1 - MISSES."""
    normal = NormalDist()
    # A share that is too large by a part w has a variance that is larger by 1 + w at most.
    return -normal.inv_cdf(chance / 2) - sqrt(1 + WRONG_BY) * normal.inv_cdf(MISSES)


def binomial_p_value(*, measured: int, count: int, share: Fraction) -> float:
    """Chance of a count at least so far out on its side, doubled: exact also for rare backends."""
    if share == 1:
        return 1.0 if measured == count else 0.0
    upper = measured >= count * share
    outcomes = range(measured, count + 1) if upper else range(measured + 1)
    return min(1.0, 2 * sum(_binomial(k, count=count, share=float(share)) for k in outcomes))


def _binomial(k: int, *, count: int, share: float) -> float:
    ways = lgamma(count + 1) - lgamma(k + 1) - lgamma(count - k + 1)
    return exp(ways + k * log(share) + (count - k) * log1p(-share))


def measure_endpoints(*, shares: Mapping[str, Fraction], counts: Counts) -> tuple[EndpointResult, ...]:
    return tuple(
        EndpointResult(
            endpoint=endpoint,
            promised=share,
            expected=float(share * counts.sent),
            measured=counts.answered.get(endpoint, 0),
        )
        for endpoint, share in shares.items()
    )


def find_strays(*, shares: Mapping[str, Fraction], counts: Counts) -> dict[str, int]:
    return {end: number for end, number in counts.answered.items() if end not in shares}


def judge(*, expected: Expectation, counts: Counts) -> list[str]:
    """Sentences on what is not as promised, with the numbers; none when all is well."""
    if not expected.shares:
        return _judge_refusal(expected, counts)
    complaints = _judge_losses(counts) + _judge_strays(expected, counts)
    complaints += _judge_shares(expected, counts)
    return complaints + _judge_sources(expected, counts)


def _judge_refusal(expected: Expectation, counts: Counts) -> list[str]:
    complaints = _judge_strays(expected, counts)
    if counts.refused < counts.sent:
        complaints.append(
            f"{counts.refused} of {counts.sent} connections were refused, where all must be:"
            " no backend takes new ones."
        )
    elif counts.slowest > AT_ONCE_SECONDS:
        complaints.append(f"Connections are to be refused at once; the slowest took {counts.slowest:.1f} s.")
    return complaints


def _judge_losses(counts: Counts) -> list[str]:
    if not counts.lost and not counts.refused:
        return []
    both = counts.lost + counts.refused
    return [
        f"{both} of {counts.sent} connections were lost ({counts.refused} refused, {counts.lost} unanswered)."
    ]


def _judge_strays(expected: Expectation, counts: Counts) -> list[str]:
    complaints = []
    for endpoint, number in find_strays(shares=expected.shares, counts=counts).items():
        who = (
            "the balancer itself: no rule took them"
            if endpoint in expected.own
            else f"{endpoint}, which is no backend that takes new connections of this service"
        )
        complaints.append(f"{number} of {counts.sent} connections were answered by {who}.")
    return complaints


def _judge_shares(expected: Expectation, counts: Counts) -> list[str]:
    complaints = []
    for one in measure_endpoints(shares=expected.shares, counts=counts):
        if expected.exact:
            wrong, why = one.measured != one.expected, ""
        elif expected.chance is not None:
            p = binomial_p_value(measured=one.measured, count=counts.sent, share=one.promised)
            wrong, why = p < expected.chance, f", which chance explains with p = {p:.1g}"
        else:
            continue
        if wrong:
            complaints.append(
                f"{one.endpoint} got {one.measured} of {counts.sent} connections"
                f" ({100 * one.measured / counts.sent:.1f} %), where {one.expected:.0f}"
                f" ({100 * float(one.promised):.1f} %) are promised{why}."
            )
    return complaints


def _judge_sources(expected: Expectation, counts: Counts) -> list[str]:
    wrong = {peer: number for peer, number in counts.peers.items() if not _is_promised(peer, expected)}
    # What the balancer answered itself says nothing about the backends.
    strays = find_strays(shares=expected.shares, counts=counts)
    number = sum(wrong.values()) - sum(strays.get(end, 0) for end in expected.own)
    if number <= 0 or not wrong:
        return []
    promised = "the balancer's own address" if _masquerades(expected.service) else "the client's own address"
    seen = "their clients' addresses" if _masquerades(expected.service) else f"{', '.join(sorted(wrong))}"
    return [
        f"Backends saw {seen} as the source of {number} of {counts.sent} connections,"
        f" where {promised} is promised."
    ]


def _is_promised(peer: str, expected: Expectation) -> bool:
    if _masquerades(expected.service):
        return peer == expected.balancer
    return ip_address(peer) in expected.clients


def _masquerades(service: Service) -> bool:
    return service.source_nat.mode is SourceNatMode.MASQUERADE


def describe_success(*, expected: Expectation, counts: Counts) -> str:
    if not expected.shares:
        return f"All {counts.sent} connections were refused at once, as promised."
    source = "the balancer's" if _masquerades(expected.service) else "the client's"
    measured = [counts.answered.get(endpoint, 0) for endpoint in expected.shares]
    listed = "/".join(map(str, measured[:8])) + ("/…" if len(measured) > 8 else "")
    how = "exactly as promised" if expected.exact else "as chance allows"
    if not expected.exact and expected.chance is None:
        how = "all by promised backends"
    return f"{counts.sent} connections: {listed}, {how}; none lost; backends saw {source} address."
