"""One look at the TCP connections of services, for passive health. Reads only.

A connection that is refused is forgotten by connection tracking at once (a reset is the only answer:
nf_conntrack_proto_tcp.c), so the rules' own counters say how many there were.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from ipaddress import ip_address

from balancer.domain.passive import Look
from balancer.domain.types import Family, Protocol, Service, format_endpoint
from balancer.kernel.base import Flavour
from balancer.kernel.flavour import tool_name
from balancer.kernel.owning import PortIndex
from balancer.kernel.tools import read_lines
from balancer.ruleset import marks
from balancer.ruleset.ir import OWN_PREFIX

_LINE = re.compile(
    r"\S+ +\d+ +(?:\d+ )?(?:[A-Z_0-9]+ )?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) (\[UNREPLIED\] )?"
    r"src=(\S+) dst=\S+ sport=(\d+)"
)
"""Client, where it went, both ports; whether nothing came back; who has to answer, from which port."""
_RULE = re.compile(rf"\[(\d+):\d+\] -A {OWN_PREFIX}\S* .*-j DNAT --to-destination (\S+)")


def look_at(services: Collection[Service], *, flavour: Flavour) -> dict[tuple[str, str], Look]:
    """By service and backend; one that two services share is the same to both. Raises KernelError."""
    looks: dict[str, Look] = {}
    for family in sorted({service.family for service in services}):
        concerned = [service for service in services if service.family is family]
        # Counters first: what begins in between must not look as if it had been refused.
        started = count_started(flavour=flavour, family=family)
        looks |= _look(concerned, family=family, started=started)
    return {
        (service.name, backend.endpoint): looks[backend.endpoint]
        for service in services
        for backend in service.backends
    }


def count_started(*, flavour: Flavour, family: Family) -> dict[str, int]:
    """New connections that our rules have sent to each endpoint; the nat table sees the first packet only."""
    counts: Counter[str] = Counter()
    for line in read_lines([tool_name(flavour=flavour, verb="save", family=family), "-c", "-t", "nat"]):
        found = _RULE.match(line)
        if found is not None:
            counts[found[2]] += int(found[1])
    return dict(counts)


def _look(services: Collection[Service], *, family: Family, started: dict[str, int]) -> dict[str, Look]:
    """By endpoint, with the connections of all services to it, as the counters count those of all."""
    unanswered: dict[str, set[str]] = defaultdict(set)
    answered: dict[str, set[str]] = defaultdict(set)
    index = PortIndex(services)
    for line in read_lines(_listing(family)):
        found = _LINE.match(line)
        if found is None:
            continue
        into = unanswered if found[5] else answered
        for endpoint in _endpoints(found, index):
            into[endpoint].add(f"{found[1]}:{found[3]}>{found[2]}:{found[4]}")
    endpoints = {backend.endpoint for service in services for backend in service.backends}
    return {
        endpoint: Look(
            unanswered=frozenset(unanswered[endpoint]),
            answered=frozenset(answered[endpoint]),
            started=started.get(endpoint),
        )
        for endpoint in endpoints
    }


def _endpoints(found: re.Match[str], index: PortIndex) -> Iterator[str]:
    """Who has to answer: as it is, and as the endpoint that stands for a whole range of ports."""
    address, went_to, answers = ip_address(found[6]), int(found[4]), int(found[7])
    yield format_endpoint(address=address, port=answers)
    for service in index.at(Protocol.TCP, went_to):
        if went_to != service.port and answers - went_to + service.port > 0:
            yield format_endpoint(address=address, port=answers - went_to + service.port)


def _listing(family: Family) -> list[str]:
    mark = f"{marks.BALANCED:#x}/{marks.BALANCED:#x}"
    return ["conntrack", "-L", "-f", family.value, "-p", Protocol.TCP.value, "--mark", mark]
