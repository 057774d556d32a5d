"""What a well-formed document must obey as a whole.

Laws of a single value are in `scalars` and its neighbours, those of a single service in `service_laws`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import product

from balancer.domain.limits import MAX_POOLS
from balancer.domain.problem import Problem, Severity
from balancer.domain.service_laws import check_service
from balancer.domain.stand_ins import check_stand_ins
from balancer.domain.syn_proxies import check_syn_proxies
from balancer.domain.types import (
    Document,
    Family,
    PortRange,
    Service,
)


def validate_document(document: Document) -> tuple[Problem, ...]:
    """Problems of a document, warnings included; paths count the services in the document's own order."""
    return validate_parsed({f"services[{i}]": service for i, service in enumerate(document.services)})


def validate_parsed(services: Mapping[str, Service], *, alone: bool = False) -> tuple[Problem, ...]:
    """The same for services that are known by their path in some input; `alone`: without all of their
    neighbours, so that one that is named and not there may be among these."""
    found: list[Problem] = []
    for path, service in services.items():
        prefix = f"{path}." if path else ""
        found.extend(
            Problem(prefix + p.path, p.code, p.message, p.severity) if p.path else p
            for p in check_service(service)
        )
    found.extend(_check_names(services))
    found.extend(_check_overlaps(services))
    found.extend(_check_overlaps_from_node(services))
    found.extend(check_syn_proxies(services))
    found.extend(_check_backends_are_no_services(services))
    found.extend(_check_pools(services))
    if not alone:
        found.extend(check_stand_ins(services))
    return tuple(found)


def _check_names(services: Mapping[str, Service]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for path, service in services.items():
        other = first.setdefault(service.name, path)
        if other != path:
            yield Problem(f"{path}.name", "duplicate", f"The name {service.name!r} is taken by {other}.")


_Taken = tuple[PortRange, str, Service]


def _check_overlaps(services: Mapping[str, Service]) -> Iterator[Problem]:
    """Two services on one interface, address and protocol whose ports overlap; told once for each two."""
    places: dict[tuple[str, Family, str, str], list[_Taken]] = defaultdict(list)
    for path, s in services.items():
        for interface, address, ports in product(s.interfaces, s.addresses or (None,), s.port_ranges):
            places[interface, s.family, str(address), s.protocol].append((ports, path, s))
    told: set[frozenset[str]] = set()
    for (interface, _, place, protocol), taken in places.items():
        for ports, path, name, other in _overlapping(taken):
            if frozenset({name, other}) in told:
                continue
            told.add(frozenset({name, other}))
            where = "any address" if place == "None" else place
            message = (
                f"Port {ports.first} ({protocol}, {where}) on {interface} is claimed by both {other!r} and "
                f"{name!r}. Choose another port, address or interface for one of them."
            )
            yield Problem(f"{path}.port" if path else "port", "overlap", message)


def _check_overlaps_from_node(services: Mapping[str, Service]) -> Iterator[Problem]:
    """What the node itself sends comes in on no interface, so that interfaces cannot tell services apart."""
    places: dict[tuple[Family, str, str], list[_Taken]] = defaultdict(list)
    for path, s in services.items():
        if s.from_node:
            for address, ports in product(s.addresses or (None,), s.port_ranges):
                places[s.family, str(address), s.protocol].append((ports, path, s))
    told: set[frozenset[str]] = set()
    for (_, _, protocol), taken in places.items():
        for ports, path, name, other in _overlapping(taken):
            if frozenset({name, other}) in told:
                continue
            told.add(frozenset({name, other}))
            message = (
                f"Connections of the node itself to port {ports.first} ({protocol}) are claimed by both"
                f" {other!r} and {name!r}: the interface tells these services apart only for what comes in."
                " Turn from_node off for one of them."
            )
            yield Problem(f"{path}.from_node" if path else "from_node", "overlap-from-node", message)


def _check_backends_are_no_services(services: Mapping[str, Service]) -> Iterator[Problem]:
    """What was sent to a backend meets no service any more. A health check of such a backend may, and finds
    it up: what the node itself sends is balanced for services with `from_node`."""
    places: dict[tuple[str, str], list[Service]] = defaultdict(list)
    for service in services.values():
        for address in service.addresses if service.enabled else ():
            places[str(address), service.protocol].append(service)
    for path, s in services.items():
        for index, backend in enumerate(s.backends):
            for other in places.get((str(backend.address), s.protocol), ()):
                if other.name != s.name and other.takes_port(backend.port):
                    message = (
                        f"{backend.endpoint} is where {other.name} takes connections, but what a node sends"
                        f" to a backend is not balanced again. Name the backends of {other.name} here, unless"
                        " another machine has that address."
                    )
                    key = f"backends[{index}].address"
                    yield Problem(f"{path}.{key}" if path else key, "service", message, Severity.WARNING)


def _overlapping(taken: list[_Taken]) -> Iterator[tuple[PortRange, str, str, str]]:
    """(ports, path, name, name of the other) wherever the ports of two different services overlap."""
    ordered = sorted(taken, key=lambda one: (one[0], one[1], one[2].name))
    if not ordered:
        return
    reach = ordered[0]
    for one in ordered[1:]:
        if reach[0].overlaps(one[0]) and one[2] is not reach[2]:
            yield one[0], one[1], one[2].name, reach[2].name
        reach = max(reach, one, key=lambda r: r[0].last)


def _check_pools(services: Mapping[str, Service]) -> Iterator[Problem]:
    seen: dict[Family, set[object]] = defaultdict(set)
    for path, s in services.items():
        if s.source_nat.address is None or (s.source_nat in seen[s.family]):
            continue
        seen[s.family].add(s.source_nat)
        if len(seen[s.family]) > MAX_POOLS:
            message = (
                f"A cluster uses at most {MAX_POOLS} different source addresses or pools of one family."
                " Use one of those that other services have."
            )
            yield Problem(f"{path}.source_nat.address" if path else "source_nat.address", "too-many", message)
