"""What a service must obey by itself, beyond what holds of each value (`scalars`)."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from balancer.domain.access_laws import check_access
from balancer.domain.health_laws import check_health
from balancer.domain.limits import (
    BITS,
    HASH_SLOTS,
    MAX_ROUND_ROBIN_SLOTS,
    SLOW_STARTERS,
    round_robin_slots,
    scheduled,
)
from balancer.domain.problem import Problem, Severity
from balancer.domain.stand_ins import check_all_down
from balancer.domain.types import (
    Family,
    Persistence,
    PersistenceMode,
    PortRange,
    Scheduler,
    Service,
    SourceNatMode,
)

_NAMES = {4: "IPv4", 6: "IPv6"}


def check_service(service: Service) -> Iterator[Problem]:
    """All that is wrong with it; paths begin at the service."""
    for check in _CHECKS:
        yield from check(service)


def _check_ports(service: Service) -> Iterator[Problem]:
    if service.port_end is not None and service.port_end < service.port:
        yield Problem("port_end", "range", f"Port end must be {service.port} (the port) or more.")
        return
    for first, second in pairwise(sorted(service.port_ranges)):
        if first.overlaps(second):
            message = f"Ports {first} and {second} of this service overlap; name each port once."
            yield Problem("additional_ports", "overlap", message)
    for index, backend in enumerate(service.backends):
        low, high = (service.backend_port(backend, p) for p in (service.span.first, service.span.last))
        if low < 1 or high > 65535:
            message = (
                f"Port {backend.port} answers for the service's port {service.port}, so that ports"
                f" {service.span} would become {low} to {high}. Choose a backend port for which all of them"
                " are from 1 to 65535."
            )
            yield Problem(f"backends[{index}].port", "range", message)
        if (
            backend.port != service.port
            and service.span.first != service.span.last
            and service.source_nat.mode is SourceNatMode.NONE
        ):
            # nf_nat_l4proto_unique_tuple: with an offset it takes the next port where the client's source
            # port is in use towards the backend already, as it can be where backends see their clients.
            message = (
                f"With source NAT none the ports {service.span} must be the backend's too: moved to others,"
                " the kernel may deliver a client that uses one source port twice to a wrong port. Choose"
                f" {service.port} for the backend, or source NAT masquerade or snat."
            )
            yield Problem(f"backends[{index}].port", "moved-unseen", message)


def _check_places(service: Service) -> Iterator[Problem]:
    if service.address is None and service.additional_addresses:
        message = "Without an address the service takes any; put the first of its addresses into address."
        yield Problem("additional_addresses", "unused", message)
    if service.address in service.additional_addresses:
        message = f"{service.address} is the service's address already; name each address once."
        yield Problem("additional_addresses", "duplicate", message)
    if service.interface in service.additional_interfaces:
        message = f"{service.interface} is the service's interface already; name each interface once."
        yield Problem("additional_interfaces", "duplicate", message)


def _check_source_nat(service: Service) -> Iterator[Problem]:
    nat = service.source_nat
    if nat.mode is SourceNatMode.SNAT and nat.address is None:
        yield Problem("source_nat.address", "missing", "Source NAT mode snat needs the address to use.")
    if nat.mode is not SourceNatMode.SNAT and nat.address is not None:
        message = f"Only mode snat takes an address; mode {nat.mode} does not use it."
        yield Problem("source_nat.address", "unused", message)
    if nat.address_end is not None and nat.address is None:
        message = "The last address of a pool needs the first one, in address, and mode snat."
        yield Problem("source_nat.address_end", "unused", message)
    if nat.hairpin and nat.mode is not SourceNatMode.NONE:
        message = (
            f"Mode {nat.mode} lets backends use the service anyway; hairpin is for mode none. Leave it out."
        )
        yield Problem("source_nat.hairpin", "unused", message)
    yield from _check_pool(service)


def _check_pool(service: Service) -> Iterator[Problem]:
    nat = service.source_nat
    for key, address in (("address", nat.address), ("address_end", nat.address_end)):
        if address is not None and (address.version == 6) is not (service.family is Family.IPV6):
            other = _NAMES[10 - address.version]
            message = f"{address} is an {_NAMES[address.version]} address, but the service is {other}."
            yield Problem(f"source_nat.{key}", "family", message)
    if nat.address is None or nat.address_end is None or nat.address.version != nat.address_end.version:
        return
    if int(nat.address_end) <= int(nat.address):
        message = (
            f"The last address of the pool must be above the first, {nat.address}; leave it out for one."
        )
        yield Problem("source_nat.address_end", "range", message)


def _check_persistence(service: Service) -> Iterator[Problem]:
    prefix, bits = service.persistence.prefix, BITS[service.family]
    none = Persistence()
    if service.persistence.mode is none.mode and service.persistence.timeout != none.timeout:
        message = "Without persistence no client is kept; choose mode source or leave the timeout out."
        yield Problem("persistence.timeout", "unused", message)
    if prefix is None:
        return
    if service.persistence.mode is PersistenceMode.NONE:
        message = "Without persistence there is nothing to keep together; choose mode source or leave it out."
        yield Problem("persistence.prefix", "unused", message)
    if prefix > bits:
        message = (
            f"Prefix must be a whole number from 1 to {bits} for an {service.family} service, not {prefix}."
        )
        yield Problem("persistence.prefix", "range", message)


def _check_families(service: Service) -> Iterator[Problem]:
    family = service.family
    of = "the service's address" if service.address is not None else "the first backend"
    placed = [(f"additional_addresses[{i}]", a) for i, a in enumerate(service.additional_addresses)]
    placed += [(f"backends[{i}].address", backend.address) for i, backend in enumerate(service.backends)]
    for path, address in placed:
        if (address.version == 6) is not (family is Family.IPV6):
            message = (
                f"{address} is an {_NAMES[address.version]} address, but {of} is "
                f"{_NAMES[10 - address.version]}. A service and its backends are of one family."
            )
            yield Problem(path, "family", message)


def _check_backends(service: Service) -> Iterator[Problem]:
    for index, backend in enumerate(service.backends):
        if backend.address in service.addresses and _leads_back(service, backend.port - service.port):
            message = (
                f"{backend.endpoint} is the service's own address and port: its connections would go "
                "round in a circle."
            )
            yield Problem(f"backends[{index}].address", "loop", message)
        if backend.priority and service.scheduler is not Scheduler.FAILOVER:
            message = (
                f"Priorities are for the scheduler failover; {service.scheduler} does not use them."
                " Leave this out."
            )
            yield Problem(f"backends[{index}].priority", "unused", message)


def _leads_back(service: Service, shift: int) -> bool:
    """Whether a port of the service, moved by `shift`, is a port of the service."""
    moved = [PortRange(ports.first + shift, ports.last + shift) for ports in service.port_ranges]
    return any(a.overlaps(b) for a in moved for b in service.port_ranges)


def _check_scheduler(service: Service) -> Iterator[Problem]:
    weights = tuple(backend.weight for backend in scheduled(service))
    total = sum(weights)
    if service.scheduler in {Scheduler.ROUND_ROBIN, Scheduler.FAILOVER}:
        slots = max((round_robin_slots(weights) for weights in _weights_by_turn(service)), default=0)
        if slots > MAX_ROUND_ROBIN_SLOTS:
            where = " of one priority" if service.scheduler is Scheduler.FAILOVER else ""
            message = (
                f"The weights{where} make a round of {slots} connections; {service.scheduler} counts to"
                f" {MAX_ROUND_ROBIN_SLOTS}. Choose weights with a larger common divisor (such as 10, 20, 30),"
                " or the scheduler random."
            )
            yield Problem("scheduler", "cycle", message)
    if service.scheduler is Scheduler.SOURCE_HASH and any(w * HASH_SLOTS < total for w in weights):
        message = (
            f"source-hash divides all clients into {HASH_SLOTS} parts, and a backend with weight"
            f" {min(weights)} of {total} would get less than one. Choose weights that are closer together, or"
            " the scheduler random."
        )
        yield Problem("scheduler", "hash-slots", message)
    if service.slow_start and service.scheduler not in SLOW_STARTERS:
        known = " and ".join(sorted(SLOW_STARTERS))
        message = (
            f"Slow start is for the schedulers {known}; {service.scheduler} does not use it. Set it to 0."
        )
        yield Problem("slow_start", "unused", message)


def _weights_by_turn(service: Service) -> list[tuple[int, ...]]:
    """The weights of those that share connections; of failover, of each priority, whoever is first today."""
    if service.scheduler is not Scheduler.FAILOVER:
        return [tuple(backend.weight for backend in service.usable_backends)]
    turns: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for backend in service.usable_backends:
        turns[backend.priority] += (backend.weight,)
    return list(turns.values())


def _warn(service: Service) -> Iterator[Problem]:
    if service.enabled and not service.usable_backends:
        message = (
            f"Service {service.name} has no backend that takes new connections: they will be refused at once."
        )
        yield Problem("backends", "no-backend", message, Severity.WARNING)


_CHECKS = (
    _check_ports,
    _check_places,
    _check_source_nat,
    _check_persistence,
    check_health,
    check_all_down,
    _check_families,
    _check_backends,
    _check_scheduler,
    check_access,
    _warn,
)
