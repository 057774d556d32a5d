"""What a probe says in plain English. Pure."""

from collections.abc import Collection

from balancer.domain.limits import scheduled
from balancer.domain.types import (
    Address,
    Backend,
    BackendState,
    Family,
    Network,
    Protocol,
    Scheduler,
    Service,
)
from balancer.probes.connect import Tally
from balancer.probes.machine import Link

_FAMILIES = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


def why_not_asked(service: Service | None) -> str:
    """Empty where it can be asked. `None` is a service that is not in the document."""
    if service is None:
        return "It was not asked: it is not in the configuration any more."
    name = service.name
    if not service.enabled:
        return f"{name} was not asked: it is disabled."
    if service.protocol is Protocol.SCTP:
        return f"{name} was not asked: the probe cannot speak SCTP."
    if service.protocol is not Protocol.TCP:
        return (
            f"{name} was not asked: over {service.protocol.upper()}, no answer says nothing about the rules."
        )
    if not service.usable_backends:
        down = any(backend.state is BackendState.ENABLED for backend in service.backends)
        why = "its health checks found no backend up" if down else "it has no enabled backend"
        return f"{name} was not asked: {why}."
    return ""


def not_let_in(service: Service, *, network: Network, setting: str) -> str:
    return (
        f"{service.name} was not asked: its allow and deny lists do not let the probe in, which comes from"
        f" {network} ({setting}). Allow that network to have the service asked."
    )


def perhaps_limited(service: Service, *, target: str) -> str:
    return (
        f"{service.name} did not answer at {target}, but it limits the connections of a source, and the probe"
        " may have met that limit."
    )


def left_out(*, asked: int, left_out: int) -> str:
    return (
        f"{asked} of {asked + left_out} touched services were asked, some of each interface, scheduler and"
        f" source NAT; {left_out} were not."
    )


def no_backend_up(service: Service) -> str:
    count = len(scheduled(service))
    of = " of the first priority" if count < len(service.usable_backends) else ""
    which = (
        f"its enabled backend{of} does not accept"
        if count == 1
        else f"none of its {count} enabled backends{of} accepts"
    )
    return f"{service.name} was not asked to answer: {which} connections from the node."


def why_unreachable(service: Service, *, link: Link | None, target: object) -> str:
    """Empty where a packet can come in by the service's interface."""
    name, interface = service.name, service.interface
    if link is None:
        return (
            f"{name} cannot answer: this node has no interface {interface}. Create it, or change the service."
        )
    if not link.up:
        return f"{name} cannot answer: the interface {interface} is down. Bring it up."
    if target is None:
        family = _FAMILIES[service.family]
        return f"{name} cannot answer: this node has no {family} address at which clients could reach it."
    return ""


def strict_filter(service: Service) -> str:
    return (
        f"the kernel's reverse path filter is strict there (rp_filter 1) and would drop the probe's packets;"
        f" set net.ipv4.conf.{service.interface}.rp_filter and net.ipv4.conf.all.rp_filter to 2 or 0"
    )


def not_made(service: Service, *, why: str, up: Collection[str]) -> str:
    """The connection through the node could not be made; what is known instead."""
    text = f"{service.name} could not be asked through {service.interface}: {why.rstrip('.')}."
    return f"{text} Asked directly instead: {_up_words(service, up)}." if up else text


def answered(service: Service, *, target: str, tally: Tally, by: str | None, up: Collection[str]) -> str:
    which = f"by {by}" if by else "by which backend is not known, as connection tracking could not be asked"
    return (
        f"{service.name} answered through {service.interface} {target} after"
        f" {tally.milliseconds:g} ms ({which}; {_up_words(service, up)})."
    )


def answered_by_other(
    service: Service, *, target: str, by: str, right: Collection[Backend], source: Address
) -> str:
    who = "the node itself" if by == target else by
    why = "which is none of its enabled backends"
    if any(by == backend.endpoint for backend in service.usable_backends):
        why = "which is to wait until those of a lower priority number are gone"
        if service.scheduler is Scheduler.SOURCE_HASH:
            owner = next(iter(right)).endpoint
            why = f"though the clients that {source} belongs to are those of {owner}"
    return (
        f"{service.name} does not work: a connection through {service.interface} to {target}"
        f" was answered by {who}, {why}."
    )


def perhaps_own(service: Service, *, target: str) -> str:
    return (
        f"{service.name} answered through {service.interface} {target}, but a program of the"
        " node listens there too, and who answered is not known. Install conntrack to tell."
    )


def silent(service: Service, *, target: str, tally: Tally, up: Collection[str]) -> str:
    return (
        f"{service.name} did not answer through {service.interface} {target}: {_tries(tally)},"
        f" while {_up_words(service, up)}."
    )


def no_way_back(service: Service, *, target: str, by: str, network: Network, setting: str) -> str:
    return (
        f"{service.name} could not be judged: connections through {service.interface} {target}"
        f" went out to {by}, and no answer came back. With source NAT none, backends answer through their own"
        f" gateway; where that is this node, they have to route {network} through it ({setting})."
    )


def too_few_up(service: Service, *, target: str, tally: Tally, up: Collection[str]) -> str:
    return (
        f"{service.name} did not answer through {service.interface} {target}: {_tries(tally)}."
        f" That may be chance: {_up_words(service, up)}."
    )


def _tries(tally: Tally) -> str:
    silent = tally.tried - tally.refused
    parts = [f"{tally.refused} refused"] * bool(tally.refused) + [f"{silent} without an answer"] * bool(
        silent
    )
    return f"of {tally.tried} connections {' and '.join(parts)}" if tally.tried else "there was no time left"


def _up_words(service: Service, up: Collection[str]) -> str:
    count = len(scheduled(service))
    if len(up) == 1:
        return f"backend {next(iter(up))} is up" + ("" if count == 1 else f", 1 of {count}")
    return f"{len(up)} of {count} backends are up"
