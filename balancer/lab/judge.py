"""What counts of connections mean beside what a service promises. Pure; the statistics need no library."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import ip_address
from math import ceil, exp, lgamma, log, log1p, sqrt
from statistics import NormalDist

from balancer.domain.limits import HASH_SLOTS, round_robin_slots, scheduled
from balancer.domain.types import Address, Protocol, Scheduler, Service, SourceNatMode
from balancer.lab.places import is_in_pool
from balancer.lab.rehearsal import EndpointResult, Limits
from balancer.lab.visit import Counts, Visit, list_places_of

FALSE_ALARMS = 1e-6
"""Chance that a whole rehearsal of correct rules fails over a share of `random`."""
MISSES = 0.01
WRONG_BY = Fraction(1, 4)
"""A share that is off by this part of itself is to be missed with a chance of `MISSES` at most."""
AT_ONCE_SECONDS = 1.0
BY_CHANCE = frozenset({Scheduler.RANDOM, Scheduler.LEAST_CONNECTIONS})
"""Least-connections is chance by weights, which the node then moves."""
_NAMED = 3
REFUSED_DATAGRAMS = 5
"""The kernel sends few ICMP errors (net.ipv4.icmp_msgs_burst is 50 in all): more would time out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    service: Service
    shares: Mapping[str, Fraction]
    """Endpoint -> promised share; empty when new connections are to be refused."""
    exact: bool
    """Whole cycles were sent, and each share is a whole number of them."""
    chance: float | None
    """Chance of a false alarm that each backend of `random` may cause; None: shares are not judged."""
    balancer: str
    """The address that masquerade gives out."""
    backend_of: Callable[[Address], str] | None = None
    """Client -> the endpoint that alone may serve it."""


def choose_count(
    *, service: Service, shares: Mapping[str, Fraction], chance: float, limits: Limits, measured: int
) -> int:
    """How many connections show what one of `measured` touched services does."""
    if not shares:
        return REFUSED_DATAGRAMS if service.protocol is Protocol.UDP else limits.connections
    if service.scheduler is Scheduler.SOURCE_HASH:
        return min(HASH_SLOTS, 4 * limits.connections)  # a client of each part, unless few will do
    if service.scheduler in BY_CHANCE:
        wanted = max(needed_connections(share=min(shares.values()), chance=chance), limits.connections)
        part = limits.connections_in_all // measured
        return min(wanted, max(limits.connections, min(limits.connections_most, part)))
    slots = slots_of(service)
    return slots * -(-limits.connections // slots)


def slots_of(service: Service) -> int:
    """Connections in a whole cycle of round-robin or failover."""
    return round_robin_slots(tuple(b.weight for b in scheduled(service)))


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
    complaints += _judge_shares(expected, counts) + _judge_clients(expected, counts)
    return complaints + _judge_sources(expected, counts)


def judge_again(pairs: Sequence[tuple[Visit, Visit]]) -> list[str]:
    """Of each client its first visit and a later one, that it or a client that is kept with it made."""
    wrong = [(first, second) for first, second in pairs if first.endpoint != second.endpoint]
    if not wrong:
        return []
    listed = ", ".join(
        f"{second.source} got {second.endpoint or second.word} after {first.endpoint}"
        for first, second in wrong[:_NAMED]
    )
    return [
        f"{len(wrong)} of {len(pairs)} clients that came again did not get the backend that they had:"
        f" {listed}."
    ]


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
    where = _where(counts, [visit for visit in counts.visits if visit.backend is None])
    return [
        f"{both} of {counts.sent} connections were lost ({counts.refused} refused, {counts.lost} unanswered)"
        f"{where}."
    ]


def _judge_strays(expected: Expectation, counts: Counts) -> list[str]:
    found: dict[str, list[Visit]] = defaultdict(list)
    for visit in counts.visits:
        if visit.endpoint is not None and visit.endpoint not in expected.shares:
            own = "the balancer itself: no rule took them"
            other = f"{visit.endpoint}, which is no backend that takes new connections of this service"
            found[own if visit.answered_itself else other].append(visit)
    return [
        f"{len(met)} of {counts.sent} connections were answered by {who}{_where(counts, met)}."
        for who, met in sorted(found.items())
    ]


def _where(counts: Counts, some: Sequence[Visit]) -> str:
    """Names the places of some visits, where it is not all that were visited."""
    places, every = list_places_of(some), list_places_of(counts.visits)
    if len(places) == len(every):
        return ""
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f", at {', '.join(map(str, places[:_NAMED]))}{more}"


def _judge_clients(expected: Expectation, counts: Counts) -> list[str]:
    if expected.backend_of is None:
        return []
    wrong = [
        (visit, right)
        for visit in counts.visits
        if visit.endpoint in expected.shares
        and visit.endpoint != (right := expected.backend_of(ip_address(visit.source)))
    ]
    if not wrong:
        return []
    listed = ", ".join(
        f"{visit.source} got {visit.endpoint} instead of {right}" for visit, right in wrong[:_NAMED]
    )
    return [f"{len(wrong)} of {counts.sent} clients did not get the backend that is theirs: {listed}."]


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
    # What the balancer answered itself says nothing about the backends.
    wrong = [
        visit
        for visit in counts.visits
        if visit.backend is not None and not visit.answered_itself and not _is_promised(visit, expected)
    ]
    if not wrong:
        return []
    own = all(visit.word == visit.source for visit in wrong)
    seen = sorted({visit.word for visit in wrong})
    more = f" and {len(seen) - _NAMED} more" if len(seen) > _NAMED else ""
    named = "their clients' addresses" if own else f"{', '.join(seen[:_NAMED])}{more}"
    return [
        f"Backends saw {named} as the source of {len(wrong)} of {counts.sent} connections,"
        f" where {_promised_source(expected.service)} is promised."
    ]


def _is_promised(visit: Visit, expected: Expectation) -> bool:
    nat = expected.service.source_nat
    match nat.mode:
        case SourceNatMode.MASQUERADE:
            return visit.word == expected.balancer
        case SourceNatMode.SNAT:
            return is_in_pool(ip_address(visit.word), nat)
        case _:
            return visit.word == visit.source


def _promised_source(service: Service) -> str:
    nat = service.source_nat
    match nat.mode:
        case SourceNatMode.MASQUERADE:
            return "the balancer's own address"
        case SourceNatMode.SNAT if nat.address_end is None:
            return f"{nat.address}"
        case SourceNatMode.SNAT:
            return f"an address from {nat.address} to {nat.address_end}"
        case _:
            return "the client's own address"


def describe_success(*, expected: Expectation, counts: Counts) -> str:
    if not expected.shares:
        return f"All {counts.sent} connections were refused at once, as promised."
    measured = [counts.answered.get(endpoint, 0) for endpoint in expected.shares]
    listed = "/".join(map(str, measured[:8])) + ("/…" if len(measured) > 8 else "")
    how = "exactly as promised" if expected.exact else "as chance allows"
    if not expected.exact and expected.chance is None:
        how = "all by promised backends"
    if expected.backend_of is not None:
        how += ", each client by the one that is its own"
    source = {
        SourceNatMode.MASQUERADE: "the balancer's address",
        SourceNatMode.SNAT: _promised_source(expected.service),
        SourceNatMode.NONE: "the client's address",
    }[expected.service.source_nat.mode]
    return f"{counts.sent} connections: {listed}, {how}; none lost; backends saw {source}."


def count_peers(visits: Sequence[Visit]) -> dict[str, int]:
    """Source address that was seen -> connections."""
    return dict(sorted(Counter(visit.word for visit in visits if visit.backend is not None).items()))
