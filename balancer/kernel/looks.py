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
from balancer.ruleset import marks, names
from balancer.ruleset.access import limits_connections
from balancer.ruleset.ir import OWN_PREFIX

_LINE = re.compile(
    r"\S+ +\d+ +(?:(?P<left>\d+) )?(?:(?P<state>[A-Z_0-9]+) )?src=(?P<client>\S+) dst=(?P<service>\S+)"
    r" sport=(?P<client_port>\d+) dport=(?P<port>\d+) (?P<unanswered>\[UNREPLIED\] )?"
    r"src=(?P<backend>\S+) dst=\S+ sport=(?P<backend_port>\d+)"
)
_OVER = {"TIME_WAIT", "CLOSE"}
"""States from which a client may begin anew at the same port (nf_conntrack_proto_tcp.c)."""
_COUNTED = re.compile(rf"\[(\d+):\d+\] -A ({OWN_PREFIX}\S*) ")
_RULE = re.compile(rf"\[(\d+):\d+\] -A ({OWN_PREFIX}\S*) .*-j DNAT --to-destination (\S+)")


def look_at(services: Collection[Service], *, flavour: Flavour) -> dict[tuple[str, str], Look]:
    """By service and backend; one that two services share is the same to both. Raises KernelError."""
    looks: dict[str, Look] = {}
    for family in sorted({service.family for service in services}):
        concerned = [service for service in services if service.family is family]
        # Counters first: what begins in between must not look as if it had been refused.
        started = count_started(concerned, flavour=flavour, family=family)
        for endpoint, dropped in _count_dropped(concerned, flavour=flavour, family=family).items():
            started[endpoint] = started.get(endpoint, 0) - dropped
        looks |= _look(concerned, family=family, started=started)
    return {
        (service.name, backend.endpoint): looks[backend.endpoint]
        for service in services
        for backend in service.backends
    }


def count_started(services: Collection[Service], *, flavour: Flavour, family: Family) -> dict[str, int]:
    """New connections that our rules have sent to each endpoint, whichever service they came for; the nat
    table sees the first packet only."""
    # The rule of a service with several ports names no port, or all of them: its chain tells whose it is.
    chains = {
        names.backend_chain(service.name, backend.address, backend.port): backend.endpoint
        for service in services
        for backend in service.backends
    }
    counts: Counter[str] = Counter()
    for line in read_lines([tool_name(flavour=flavour, verb="save", family=family), "-c", "-t", "nat"]):
        found = _RULE.match(line)
        if found is not None:
            counts[chains.get(found[2], found[3])] += int(found[1])
    return dict(counts)


def _count_dropped(services: Collection[Service], *, flavour: Flavour, family: Family) -> Counter[str]:
    """New connections that a limit of the node's own dropped behind the rule that chose a backend: these were
    not refused by it. Each counts for all backends of its service, as it is not told for which it was."""
    chains = {names.limits_chain(s.name): s for s in services if limits_connections(s)}
    counts: Counter[str] = Counter()
    if not chains:
        return counts
    for line in read_lines([tool_name(flavour=flavour, verb="save", family=family), "-c", "-t", "mangle"]):
        found = _COUNTED.match(line)
        if found is not None and found[2] in chains:
            counts.update({backend.endpoint: int(found[1]) for backend in chains[found[2]].backends})
    return counts


def _look(services: Collection[Service], *, family: Family, started: dict[str, int]) -> dict[str, Look]:
    """By endpoint, with the connections of all services to it, as the counters count those of all."""
    unanswered: dict[str, set[str]] = defaultdict(set)
    answered: dict[str, set[str]] = defaultdict(set)
    over: dict[str, dict[str, int]] = defaultdict(dict)
    index = PortIndex(services)
    for line in read_lines(_listing(family)):
        found = _LINE.match(line)
        if found is None:
            continue
        into = unanswered if found["unanswered"] else answered
        connection = f"{found['client']}:{found['client_port']}>{found['service']}:{found['port']}"
        for endpoint in _endpoints(found, index):
            into[endpoint].add(connection)
            if found["state"] in _OVER:
                over[endpoint][connection] = int(found["left"])
    endpoints = {backend.endpoint for service in services for backend in service.backends}
    return {
        endpoint: Look(
            unanswered=frozenset(unanswered[endpoint]),
            answered=frozenset(answered[endpoint]),
            started=started.get(endpoint),
            over=over[endpoint],
        )
        for endpoint in endpoints
    }


def _endpoints(found: re.Match[str], index: PortIndex) -> Iterator[str]:
    """Who has to answer: as it is, and as the endpoint that stands for a whole range of ports."""
    address, went_to = ip_address(found["backend"]), int(found["port"])
    answers = int(found["backend_port"])
    yield format_endpoint(address=address, port=answers)
    for service in index.at(Protocol.TCP, went_to):
        if went_to != service.port and answers - went_to + service.port > 0:
            yield format_endpoint(address=address, port=answers - went_to + service.port)


def _listing(family: Family) -> list[str]:
    mark = f"{marks.BALANCED:#x}/{marks.BALANCED:#x}"
    return ["conntrack", "-L", "-f", family.value, "-p", Protocol.TCP.value, "--mark", mark]
