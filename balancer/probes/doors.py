"""The ways in by which a service is asked, and who may answer there. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import collapse_addresses

from balancer.domain.limits import burst_of, scheduled
from balancer.domain.types import (
    Address,
    Backend,
    BackendState,
    Network,
    PersistenceMode,
    Scheduler,
    Service,
    format_endpoint,
)
from balancer.probes.base import ServiceProbe
from balancer.probes.way import Entrance
from balancer.ruleset.parts import backend_of
from balancer.ruleset.service import prefix_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One interface of a service. Its port is the one that its backends' ports are known for: not every port
    of a range need be in use."""

    service: Service
    """With this interface as its only one."""
    address: Address | None
    """None where any will do."""
    key: str

    @property
    def entrance(self) -> Entrance:
        return self.service.interface, self.service.family


def list_doors(service: Service) -> tuple[Door, ...]:
    """One for each interface, with the service's addresses in turn."""
    addresses = service.addresses or (None,)
    return tuple(
        Door(
            service=replace(service, interface=interface, additional_interfaces=()),
            address=addresses[number % len(addresses)],
            key=f"{service.name} {interface}",
        )
        for number, interface in enumerate(service.interfaces)
    )


def is_bound(service: Service) -> bool:
    """Whether one client is served by one backend, however often it asks."""
    return service.scheduler is Scheduler.SOURCE_HASH or keeps_clients(service)


def is_let_in(service: Service, network: Network) -> bool:
    """Whether the lists of the service let every address of the probe's network in."""
    access = service.access
    allowed = collapse_addresses(access.allow)  # type: ignore[type-var]
    return not any(network.overlaps(denied) for denied in access.deny) and (
        not access.allow or any(network.subnet_of(one) for one in allowed)  # type: ignore[arg-type]
    )


def is_limited(service: Service) -> bool:
    """Whether a source that asks often is refused for that."""
    access = service.access
    return (access.new_per_second_per_source, access.connections_per_source) != (None, None)


def attempts_for(service: Service, *, most: int) -> int:
    """So many connections at once are not too many for its limits."""
    access = service.access
    rate = burst_of(access) if access.new_per_second_per_source is not None else most
    return min(most, rate, access.connections_per_source or most)


def keeps_clients(service: Service) -> bool:
    return service.persistence.mode is not PersistenceMode.NONE


def is_shared(service: Service, network: Network) -> bool:
    """Whether the clients that are kept together with a probe from `network` may be somebody's."""
    return keeps_clients(service) and prefix_of(service) < network.prefixlen


def may_answer(service: Service, *, source: Address, network: Network) -> tuple[Backend, ...]:
    """The backends to one of which a connection of the probe may be sent.

    Not those of failover that wait for others to fail; by source-hash the one alone that is the source's.
    """
    if is_shared(service, network):
        return tuple(b for b in service.backends if b.state is not BackendState.DISABLED)
    chosen = scheduled(service)
    if service.scheduler is not Scheduler.SOURCE_HASH or not chosen:
        return chosen
    return (backend_of(source, chosen),)


def is_one_of(endpoint: str, backends: Sequence[Backend], *, service: Service) -> bool:
    """Whether that is where one of the backends gets what comes in at the service's port."""
    ports = ((b.address, service.backend_port(b, service.port)) for b in backends)
    return any(endpoint == format_endpoint(address=address, port=port) for address, port in ports)


def join(results: Sequence[ServiceProbe]) -> ServiceProbe:
    """What is said of a service that was asked through each of `results`."""
    first, *others = results
    if not others:
        return first
    failed = [result for result in results if result.passed is False]
    unknown = [result for result in results if result.passed is None]
    times = [result.milliseconds for result in results if result.milliseconds is not None]
    return ServiceProbe(
        service=first.service,
        passed=False if failed else None if unknown else True,
        text=" ".join(dict.fromkeys(result.text for result in failed or unknown or results)),
        milliseconds=max(times) if times else None,
        backends_up=first.backends_up,
    )
