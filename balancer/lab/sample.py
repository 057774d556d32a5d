"""Which services a rehearsal sends to, and the lab in which it can. Pure and deterministic."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
    summarize_address_range,
)
from itertools import chain, islice, zip_longest
from typing import Any, TypeVar

from balancer.domain.types import Address, Document, Family, Network, Protocol, Service
from balancer.lab.crowd import Crowd
from balancer.lab.errors import LabError
from balancer.lab.ipv6 import Ipv6
from balancer.lab.machines import Balancer
from balancer.lab.places import asked_ports, backend_ports, is_in_pool
from balancer.lab.rehearsal import Limits, Omitted

_Block = TypeVar("_Block", IPv4Network, IPv6Network)
_BLOCKS = tuple(
    block for pool in ("198.18.0.0/15", "100.64.0.0/10") for block in IPv4Network(pool).subnets(new_prefix=16)
)
"""For benchmarks (RFC 2544) and carriers (RFC 6598): seldom a document's own."""
_BLOCKS_IPV6 = tuple(
    block
    for pool in ("2001:2::/48", "fd6c:6261:646d::/48")
    for block in IPv6Network(pool).subnets(new_prefix=56)
)
"""For benchmarks (RFC 5180), and a part of the unique local addresses (RFC 4193)."""
_CLIENTS, _LAN, _FIRST_SEGMENT = 0, 1, 2
"""Which /24 (IPv6: /64) of the block is what. Clients that are told apart are in the block's second half."""
INTERFACES_MAX = 100
"""As many /24 are in the first half, and some to spare."""
DELETED, DISABLED = "it is not in the document", "it is disabled"
"""Reasons to leave a service out of which nothing is promised."""
NO_SCTP = "the lab cannot speak SCTP"
_NO_LINK = frozenset({"lo", "all", "default"})
"""Names that Linux gives to no new link."""
_NO_ROUTE = tuple(
    ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "240.0.0.0/4", "::/8", "fe80::/10", "ff00::/8")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    measured: tuple[Service, ...]
    probed: tuple[Service, ...]
    omitted: tuple[Omitted, ...]


def draw_sample(*, document: Document, touched: Collection[str] | None, limits: Limits) -> Sample:
    """None for `touched` means every service. Equal documents give equal samples.

    Of many, each kind of service (protocol, scheduler, source NAT, with or without backends, interface)
    comes in turn, so that no kind is left out for another that is frequent.
    """
    names = {s.name for s in document.services if s.enabled} if touched is None else set(touched)
    omitted = dict(_find_impossible(document, touched=names))
    able = [s for s in document.services if s.enabled and s.name not in omitted]
    room: set[str] = set()
    measured = _fill(_mix(s for s in able if s.name in names), count=limits.touched, interfaces=room)
    others = [s for s in able if s not in measured]
    # Touched ones that were too many come first among those that are probed.
    rest = _mix(s for s in others if s.name in names) + _mix(s for s in others if s.name not in names)
    probed = _fill(rest, count=limits.probed, interfaces=room)
    for service in others:
        if service not in probed:
            omitted[service.name] = Omitted(
                name=service.name, touched=service.name in names, reason="not in the sample"
            )
    return Sample(
        measured=tuple(sorted(measured, key=lambda s: s.name)),
        probed=tuple(sorted(probed, key=lambda s: s.name)),
        omitted=tuple(omitted[name] for name in sorted(omitted)),
    )


def _fill(services: Sequence[Service], *, count: int, interfaces: set[str]) -> list[Service]:
    """The first `count` for whose interfaces the lab has room; adds these to `interfaces`."""
    found: list[Service] = []
    for service in services:
        if len(found) < count and len(interfaces | set(service.interfaces)) <= INTERFACES_MAX:
            interfaces |= set(service.interfaces)
            found.append(service)
    return found


def _find_impossible(document: Document, *, touched: set[str]) -> Iterable[tuple[str, Omitted]]:
    own = {address for service in document.services if service.enabled for address in service.addresses}
    backends = {b.address for service in document.services for b in service.backends}
    for service in document.services:
        if not service.enabled and service.name not in touched:
            continue
        if reason := _why_not(service, own=own, backends=backends):
            yield service.name, Omitted(name=service.name, touched=service.name in touched, reason=reason)
    for name in touched - {service.name for service in document.services}:
        yield name, Omitted(name=name, touched=True, reason=DELETED)


def _why_not(service: Service, *, own: Collection[Address], backends: Collection[Address]) -> str | None:
    addresses = [*service.addresses, *(b.address for b in service.backends)]
    if not service.enabled:
        return DISABLED
    if service.protocol is Protocol.SCTP:
        return NO_SCTP
    for interface in service.interfaces:
        if interface in _NO_LINK:
            return f"the lab cannot have an interface {interface}"
    if any(backend.address in own for backend in service.backends):
        return "one of its backends has the address of a service"
    nat = service.source_nat
    if any(is_in_pool(address, nat) for address in backends):
        return "its source NAT uses the address of a backend"
    if any(address in network for address in addresses for network in _NO_ROUTE):
        return "one of its addresses cannot be reached through a network"
    return None


def _mix(services: Iterable[Service]) -> list[Service]:
    """One of each kind in turn; within a kind in an order that has nothing to do with the names'."""
    kinds: dict[tuple[str, ...], list[Service]] = defaultdict(list)
    for service in services:
        usable = "usable" if service.usable_backends else "refused"
        key = (service.protocol, service.scheduler, service.source_nat.mode, usable, service.interface)
        kinds[key].append(service)
    piles = [sorted(kinds[key], key=_shuffle) for key in sorted(kinds)]
    return [service for service in chain(*zip_longest(*piles)) if service is not None]


def _shuffle(service: Service) -> bytes:
    return hashlib.sha256(repr(service).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A lab in which the services can be reached, none of whose own networks holds an address of theirs."""

    balancer: Balancer
    crowds: dict[Family, Crowd]
    pools: tuple[Network, ...]
    """Addresses of the balancer for source NAT, as far as they are nobody else's."""
    lab: dict[str, Any]
    """Further arguments of `Lab`."""
    own_tcp_ports: tuple[int, ...]
    own_udp_ports: tuple[int, ...]
    """Ports on which the balancer itself answers, so that what no rule takes is seen."""


def fit_lab(*, document: Document, services: Collection[Service]) -> Fit:
    """LabError when no block of addresses is free."""
    block = _free_block(document, _BLOCKS)
    networks = list(block.subnets(new_prefix=24))
    lan = networks[_LAN]
    balancer = Balancer(
        name="balancer",
        lan_address=lan[1],
        interfaces=tuple(sorted({name for service in services for name in service.interfaces})) or ("eth0",),
        lan_interface=_free_interface(document),
        addresses=_served(services),
        forwarding=False,  # the sync is to turn it on
    )
    backends = sorted({b.address for s in services for b in s.backends if isinstance(b.address, IPv4Address)})
    block_ipv6 = _free_block(document, _BLOCKS_IPV6) if _speaks_ipv6(services) else None
    return Fit(
        balancer=balancer,
        crowds={
            family: _crowd(document, one)
            for family, one in ((Family.IPV4, block), (Family.IPV6, block_ipv6))
            if one is not None
        },
        pools=_pools(document, services),
        lab={
            "balancers": (balancer,),
            "backends": tuple(IPv4Network(address) for address in backends),
            "clients": networks[_CLIENTS],
            "lan": lan,
            "router": lan[2],
            "first_segment": networks[_FIRST_SEGMENT],
            "ipv6": None if block_ipv6 is None else _fit_ipv6(block_ipv6, services),
            "tcp_ports": _backend_ports(services, protocol="tcp"),
            "udp_ports": _backend_ports(services, protocol="udp"),
        },
        own_tcp_ports=_own_ports(services, protocol="tcp"),
        own_udp_ports=_own_ports(services, protocol="udp"),
    )


def _served(services: Collection[Service]) -> tuple[tuple[str, Address], ...]:
    """(interface, address): each address once, on one of the interfaces that it is served on."""
    found = {address: s.interface for s in services for address in s.addresses}
    return tuple(sorted(((name, address) for address, name in found.items()), key=str))


def _speaks_ipv6(services: Collection[Service]) -> bool:
    return any(service.family is Family.IPV6 for service in services)


def _fit_ipv6(block: IPv6Network, services: Collection[Service]) -> Ipv6:
    networks = [*islice(block.subnets(new_prefix=64), 3)]
    backends = {b.address for s in services for b in s.backends if isinstance(b.address, IPv6Address)}
    return Ipv6(
        clients=networks[_CLIENTS],
        lan=networks[_LAN],
        first_segment=networks[_FIRST_SEGMENT],
        backends=tuple(IPv6Network(address) for address in sorted(backends)),
    )


def _crowd(document: Document, block: Network) -> Crowd:
    """The lab's own networks are in the first half of the block."""
    first = block[block.num_addresses // 2]
    version = block.version
    taken = {(int(block.network_address), int(first) - 1)}
    taken |= {(int(a), int(b)) for a, b in _ranges(document) if a.version == version}
    family = Family.IPV6 if version == 6 else Family.IPV4
    return Crowd(family=family, first=first, taken=tuple(sorted(taken)))


def _pools(document: Document, services: Collection[Service]) -> tuple[Network, ...]:
    """A network with an address of the document's in it is left out: answers find back all the same."""
    others = {a for s in document.services for a in (*s.addresses, *(b.address for b in s.backends))}
    found = {
        network
        for service in services
        if (nat := service.source_nat).address is not None
        for network in summarize_address_range(nat.address, nat.address_end or nat.address)
        if not any(address in network for address in others)
    }
    return tuple(sorted(found, key=lambda n: (n.version, n.network_address, n.prefixlen)))


def _own_ports(services: Collection[Service], *, protocol: str) -> tuple[int, ...]:
    return tuple(sorted({port for s in services if s.protocol == protocol for port in asked_ports(s)}))


def _backend_ports(services: Collection[Service], *, protocol: str) -> tuple[int, ...]:
    return tuple(sorted({port for s in services if s.protocol == protocol for port in backend_ports(s)}))


def _ranges(document: Document) -> set[tuple[Address, Address]]:
    """All addresses that the document names."""
    found = {(a, a) for s in document.services for a in (*s.addresses, *(b.address for b in s.backends))}
    pools = [s.source_nat for s in document.services]
    return found | {(p.address, p.address_end or p.address) for p in pools if p.address is not None}


def _free_block(document: Document, blocks: Sequence[_Block]) -> _Block:
    named = _ranges(document)
    for block in blocks:
        low, high = int(block.network_address), int(block.broadcast_address)
        if not any(a.version == block.version and int(a) <= high and low <= int(b) for a, b in named):
            return block
    raise LabError(
        "The document has addresses in every network that the lab could use for its own machines"
        f" ({blocks[0]} to {blocks[-1]}), so it cannot be rehearsed."
    )


def _free_interface(document: Document) -> str:
    taken = {name for service in document.services for name in service.interfaces}
    return next(name for number in range(len(taken) + 1) if (name := f"lan{number}") not in taken)
