"""What a well-formed document must obey as a whole, and what this version cannot do yet.

Laws that hold of a single value are in `scalars`; these need two values or more.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import pairwise
from math import gcd

from balancer.domain.problem import Problem, Severity
from balancer.domain.types import (
    Access,
    AllDown,
    Document,
    Family,
    Health,
    Persistence,
    Protocol,
    Scheduler,
    Service,
    SourceNatMode,
)

MAX_BACKENDS = 1024
MAX_ROUND_ROBIN_SLOTS = 1024


def validate_document(document: Document) -> tuple[Problem, ...]:
    """Problems of a document, warnings included; paths count the services in the document's own order."""
    return validate_parsed({f"services[{i}]": service for i, service in enumerate(document.services)})


def validate_parsed(services: Mapping[str, Service]) -> tuple[Problem, ...]:
    """The same for services that are known by their path in some input."""
    found: list[Problem] = []
    for path, service in services.items():
        prefix = f"{path}." if path else ""
        for check in (_check_values, _check_families, _check_backends, _check_later, _warn):
            found.extend(
                Problem(prefix + p.path, p.code, p.message, p.severity) if p.path else p
                for p in check(service)
            )
    found.extend(_check_names(services))
    found.extend(_check_overlaps(services))
    return tuple(found)


def round_robin_slots(weights: tuple[int, ...]) -> int:
    """Connections in one whole cycle: the weights divided by their greatest common divisor, added up."""
    return sum(weights) // reduce(gcd, weights) if weights else 0


def _check_values(service: Service) -> Iterator[Problem]:
    if service.port_end is not None and service.port_end < service.port:
        yield Problem("port_end", "range", f"Port end must be {service.port} (the port) or more.")
    nat = service.source_nat
    if nat.mode is SourceNatMode.SNAT and nat.address is None:
        yield Problem("source_nat.address", "missing", "Source NAT mode snat needs the address to use.")
    if nat.mode is not SourceNatMode.SNAT and nat.address is not None:
        message = f"Only mode snat takes an address; mode {nat.mode} does not use it."
        yield Problem("source_nat.address", "unused", message)
    if service.health.timeout > service.health.interval:
        yield Problem("health.timeout", "range", "Timeout must not be longer than the interval.")


def _check_families(service: Service) -> Iterator[Problem]:
    family = service.family
    of = "the service's address" if service.address is not None else "the first backend"
    for index, backend in enumerate(service.backends):
        if (backend.address.version == 6) is not (family is Family.IPV6):
            name = {4: "IPv4", 6: "IPv6"}
            message = (
                f"{backend.address} is an {name[backend.address.version]} address, but {of} is "
                f"{name[10 - backend.address.version]}. A service and its backends are of one family."
            )
            yield Problem(f"backends[{index}].address", "family", message)


def _check_backends(service: Service) -> Iterator[Problem]:
    for index, backend in enumerate(service.backends):
        if backend.address == service.address and service.port <= backend.port <= service.last_port:
            message = (
                f"{backend.endpoint} is the service's own address and port: its connections would go "
                "round in a circle."
            )
            yield Problem(f"backends[{index}].address", "loop", message)
    slots = round_robin_slots(tuple(b.weight for b in service.usable_backends))
    if service.scheduler is Scheduler.ROUND_ROBIN and slots > MAX_ROUND_ROBIN_SLOTS:
        message = (
            f"The weights make a round of {slots} connections; round-robin counts to "
            f"{MAX_ROUND_ROBIN_SLOTS}. Choose weights with a larger common divisor (such as 10, 20, 30), or "
            "the scheduler random."
        )
        yield Problem("scheduler", "cycle", message)


def _check_later(service: Service) -> Iterator[Problem]:
    """Keys whose behaviour comes in a later version are refused, never ignored."""
    later = {
        "protocol": service.protocol is Protocol.SCTP,
        "port_end": service.port_end is not None,
        "scheduler": service.scheduler not in {Scheduler.ROUND_ROBIN, Scheduler.RANDOM},
        "persistence": service.persistence != Persistence(),
        "source_nat.mode": service.source_nat.mode is SourceNatMode.SNAT,
        "access": service.access not in {Access(), Access(drop_invalid=False)},
        "health": service.health != Health(),
        "all_down": service.all_down is not AllDown.KEEP,
    }
    what = {
        "protocol": "Protocol sctp",
        "port_end": "A range of ports",
        "scheduler": f"Scheduler {service.scheduler}",
        "persistence": "Persistence",
        "source_nat.mode": "Source NAT mode snat",
        "access": "Access lists and limits",
        "health": "Health checks",
        "all_down": f"all_down {service.all_down}",
    }
    for path, wanted in later.items():
        if wanted:
            yield _not_yet(path, what[path])
    for index, backend in enumerate(service.backends):
        if backend.priority:
            yield _not_yet(f"backends[{index}].priority", "Priority")


def _not_yet(path: str, what: str) -> Problem:
    return Problem(path, "not-yet", f"{what} is not available in this version; leave out this key.")


def _warn(service: Service) -> Iterator[Problem]:
    if service.enabled and not service.usable_backends:
        message = (
            f"Service {service.name} has no backend that takes new connections: they will be refused at once."
        )
        yield Problem("backends", "no-backend", message, Severity.WARNING)


def _check_names(services: Mapping[str, Service]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for path, service in services.items():
        other = first.setdefault(service.name, path)
        if other != path:
            yield Problem(f"{path}.name", "duplicate", f"The name {service.name!r} is taken by {other}.")


def _check_overlaps(services: Mapping[str, Service]) -> Iterator[Problem]:
    """Two services on one interface, address and protocol whose ports overlap."""
    places: dict[tuple[str, str, str], list[tuple[int, int, str, str]]] = defaultdict(list)
    for path, s in services.items():
        places[s.interface, str(s.address), s.protocol].append((s.port, s.last_port, path, s.name))
    for (interface, address, protocol), taken in places.items():
        ordered = sorted(taken)
        for (_, end, _, other), (start, _, path, name) in pairwise(ordered):
            if start <= end:
                where = "any address" if address == "None" else address
                message = (
                    f"Port {start} ({protocol}, {where}) on {interface} is claimed by both {other!r} and "
                    f"{name!r}. Choose another port, address or interface for one of them."
                )
                yield Problem(f"{path}.port" if path else "port", "overlap", message)
