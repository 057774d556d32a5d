"""What the access rules of a service must obey, beyond what holds of each value (`scalars`)."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from balancer.domain.limits import BURST_SECONDS
from balancer.domain.problem import Problem, Severity
from balancer.domain.types import Access, Family, Network, Service

_TOLD = 10
"""Entries of a list that are told one by one."""
_NAMES = {4: "IPv4", 6: "IPv6"}


def check_access(service: Service) -> Iterator[Problem]:
    """Paths begin at the service, and count entries as the input does."""
    yield from _check_families(service)
    yield from _check_unused(service.access)
    yield from _check_shared_addresses(service)
    yield from _warn_of_denied(service.access)


def refuses(service: Service) -> bool:
    """Whether the service refuses anything at all of those who reach it."""
    access = service.access
    limits = (access.new_per_second_per_source, access.connections_per_source, access.connections_per_backend)
    return bool(access.drop_invalid or access.allow or access.deny or any(limits))


def _check_families(service: Service) -> Iterator[Problem]:
    wanted = 6 if service.family is Family.IPV6 else 4
    for key in ("allow", "deny"):
        networks: tuple[Network, ...] = getattr(service.access, key)
        strange = [(i, network) for i, network in enumerate(networks) if network.version != wanted]
        for place, (index, network) in enumerate(strange[:_TOLD], start=1):
            more = len(strange) - _TOLD
            message = (
                f"{network} is an {_NAMES[network.version]} network, but the service is {_NAMES[wanted]}:"
                " none of its clients is in there. Leave it out."
            )
            if place == _TOLD and more > 0:
                message += f" So are {more} more entries behind this one."
            yield Problem(f"access.{key}[{index}]", "family", message)


def _check_unused(access: Access) -> Iterator[Problem]:
    if access.new_burst is not None and access.new_per_second_per_source is None:
        message = "A burst belongs to a number of new connections per second; give that too, or leave it out."
        yield Problem("access.new_burst", "unused", message)
    elif access.new_burst is not None:
        rate = access.new_per_second_per_source or 1
        if not rate <= access.new_burst <= rate * BURST_SECONDS:
            message = (
                f"The burst must be from {rate} to {rate * BURST_SECONDS} (the new connections of 1 to"
                f" {BURST_SECONDS} seconds), not {access.new_burst}."
            )
            yield Problem("access.new_burst", "range", message)
    quiet = Access(drop_invalid=False, log_refused=True)
    if access == quiet:
        message = "The service refuses nobody, so there is nothing to log. Turn log_refused off."
        yield Problem("access.log_refused", "unused", message)


def _check_shared_addresses(service: Service) -> Iterator[Problem]:
    """Connections of a backend are counted by its address, or by its address and one port."""
    if service.access.connections_per_backend is None or service.span.first == service.span.last:
        return
    shared = [a for a, count in Counter(b.address for b in service.backends).items() if count > 1]
    if shared:
        message = (
            f"Several backends have the address {shared[0]}. With more than one port, the connections of a"
            " backend are counted by its address: give each an address of its own, or leave this limit out."
        )
        yield Problem("access.connections_per_backend", "shared-address", message)


def _warn_of_denied(access: Access) -> Iterator[Problem]:
    """Entries that allow nobody, because all of them are denied."""
    if not access.allow or not access.deny:
        return
    ends: dict[int, tuple[list[int], list[int]]] = {v: _intervals(access.deny, v) for v in (4, 6)}
    told = 0
    for index, network in enumerate(access.allow):
        firsts, lasts = ends[network.version]
        place = bisect_right(firsts, int(network.network_address)) - 1
        if place >= 0 and int(network.broadcast_address) <= lasts[place]:
            message = f"All of {network} is denied as well; deny wins, so that this entry lets nobody in."
            yield Problem(f"access.allow[{index}]", "denied", message, Severity.WARNING)
            told += 1
        if told == _TOLD:
            return


def _intervals(networks: tuple[Network, ...], version: int) -> tuple[list[int], list[int]]:
    """First and last addresses of what the networks cover together, in ascending order."""
    spans = sorted(
        (int(n.network_address), int(n.broadcast_address)) for n in networks if n.version == version
    )
    joined: list[list[int]] = []
    for first, last in spans:
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    flat = list(chain.from_iterable(joined))
    return flat[::2], flat[1::2]
