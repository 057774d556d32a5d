"""After the rules: connections that the kernel remembers and that the new rules would decide otherwise.

An established flow never meets the nat table again, so a rule change alone leaves it where it was. That is
what we want for TCP, except on backends that are disabled. A UDP client that keeps sending never ends its
flow: it would stay on a removed backend, or unbalanced from before the service existed, for ever.
Entries are deleted by exact description through conntrack(8); the table is never flushed.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from balancer.domain.types import (
    Address,
    Backend,
    BackendState,
    Document,
    Family,
    PortRange,
    Protocol,
    Service,
)
from balancer.kernel.base import KernelError
from balancer.kernel.tools import read_lines, run_tool
from balancer.ruleset.compile import MARK_BALANCED, MARK_MASK, MARK_MASQUERADE

_MARKS_OF_BALANCED = {MARK_BALANCED, MARK_BALANCED | MARK_MASQUERADE}
_ENTRY = re.compile(
    r"\S+ +\d+ +\d+ (?:([A-Z_0-9]+) )?src=\S+ dst=(\S+) sport=\d+ dport=(\d+) "
    r".*?src=(\S+) dst=\S+ sport=(\d+) dport=\d+(?: .*?mark=(\d+))?"
)
"""State (TCP), original destination and its port, who answers and from which port, mark."""
_SHORT = 64
"""Ports of a range that are indexed one by one."""
_DELETED = re.compile(r"(\d+) flow entries have been deleted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """All entries from any client to one address and port that are answered by one endpoint."""

    protocol: Protocol
    address: Address
    port: int
    answered_by: Address
    answered_port: int
    mark: int
    """Our three bits of the connection mark."""

    @property
    def is_balanced(self) -> bool:
        """Marked as our services mark, and sent elsewhere: other programs may use one of these bits."""
        return self.mark in _MARKS_OF_BALANCED and self.is_translated

    @property
    def is_translated(self) -> bool:
        return (self.address, self.port) != (self.answered_by, self.answered_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    removed: int
    warnings: tuple[str, ...] = ()


def reconcile_connections(
    *, document: Document, family: Family, local_addresses: frozenset[Address]
) -> Reconciled:
    """Deletes what `find_stale` names. Never raises: the rules are in, and a failure here is a warning."""
    try:
        flows = [
            flow for protocol in _protocols(document) for flow in list_flows(protocol=protocol, family=family)
        ]
        stale = find_stale(flows, document=document, family=family, local_addresses=local_addresses)
        removed = sum(_delete(flow, family=family) for flow in stale)
    except KernelError as error:
        return Reconciled(
            removed=0,
            warnings=(f"Connections that the kernel remembers could not be brought in line: {error}",),
        )
    return Reconciled(removed=removed)


def find_stale(
    flows: Iterable[Flows], *, document: Document, family: Family, local_addresses: frozenset[Address]
) -> tuple[Flows, ...]:
    """The flows that the document's rules would not let be as they are."""
    named = {s.name: s for s in document.services if s.enabled and s.family is family}
    services = PortIndex(named.values())

    def is_stale(flow: Flows) -> bool:
        candidates = services.at(flow.protocol, flow.port)
        covering = [s for s in candidates if _covers(s, flow, local_addresses=local_addresses)]
        if not flow.is_balanced:
            return flow.protocol is Protocol.UDP and not flow.is_translated and bool(covering)
        # The interface is not in a conntrack entry: what any service could own is left alone.
        if flow.protocol is Protocol.UDP:
            now = [b for s in covering for b in _answering(s, named, flow, follow=lambda s: s.stand_in)]
            return not any(b.up and b.state is not BackendState.DISABLED for b in now)
        ever = {
            b.state for s in covering for b in _answering(s, named, flow, follow=lambda s: s.all_down_service)
        }
        return ever == {BackendState.DISABLED}

    return tuple(sorted({flow for flow in flows if is_stale(flow)}, key=str))


class PortIndex:
    """Services by protocol and port; long ranges of ports are asked one by one."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._ports: dict[tuple[Protocol, int], list[Service]] = defaultdict(list)
        self._ranges: list[tuple[Protocol, PortRange, Service]] = []
        for service in services:
            for ports in service.port_ranges:
                if ports.last - ports.first < _SHORT:
                    for port in range(ports.first, ports.last + 1):
                        self._ports[service.protocol, port].append(service)
                else:
                    self._ranges.append((service.protocol, ports, service))

    def at(self, protocol: Protocol, port: int) -> list[Service]:
        wide = [s for of, ports, s in self._ranges if of is protocol and port in ports]
        return [*self._ports.get((protocol, port), ()), *wide]


def list_flows(*, protocol: Protocol, family: Family) -> frozenset[Flows]:
    """UDP: every flow. Others: those that carry our mark."""
    return frozenset(flows for flows, _ in count_entries(protocol=protocol, family=family))


def count_entries(*, protocol: Protocol, family: Family) -> dict[tuple[Flows, str], int]:
    """How many entries there are of each flow in each state (as conntrack(8) spells it; empty for UDP)."""
    arguments = ["conntrack", "-L", "-f", family.value, "-p", protocol.value]
    if protocol is not Protocol.UDP:
        arguments += ["--mark", f"{MARK_BALANCED:#x}/{MARK_BALANCED:#x}"]
    # Texts are counted and only the different ones are read: there may be a million lines.
    texts = Counter(_take_apart(line) for line in read_lines(arguments))
    counts: dict[tuple[Flows, str], int] = {}
    for entry, count in texts.items():
        found = _parse(entry, protocol=protocol)
        if found is not None:
            counts[found] = counts.get(found, 0) + count
    return counts


def _protocols(document: Document) -> tuple[Protocol, ...]:
    cut = {
        service.protocol
        for service in document.services
        for backend in service.backends
        if backend.state is BackendState.DISABLED
    }
    return tuple(sorted(cut | {Protocol.UDP}))


def _covers(service: Service, flow: Flows, *, local_addresses: frozenset[Address]) -> bool:
    if service.addresses:
        return flow.address in service.addresses
    # A balanced flow was to an address of this machine when it began; the address may have gone since.
    return flow.is_balanced or flow.address in local_addresses


def _answering(
    service: Service, named: Mapping[str, Service], flow: Flows, *, follow: Callable[[Service], str | None]
) -> Iterator[Backend]:
    """The backends that answer such a flow: the service's own, and those of services that stand in for it."""
    at: Service | None = service
    seen: set[str] = set()
    while at is not None and at.name not in seen:
        seen.add(at.name)
        yield from (backend for backend in at.backends if _answers(at, backend, flow))
        at = named.get(follow(at) or "")


def _answers(service: Service, backend: Backend, flow: Flows) -> bool:
    """A service with one port sends all that it gets to the one of its backend, also for another service."""
    one = service.span.first == service.span.last
    port = backend.port if one else service.backend_port(backend, flow.port)
    return (backend.address, port) == (flow.answered_by, flow.answered_port)


def _take_apart(line: str) -> tuple[str, ...] | None:
    """One line of conntrack -L as the groups of _ENTRY: the original direction is first, the reply second."""
    found = _ENTRY.match(line)
    return found.groups("") if found else None


def _parse(entry: tuple[str, ...] | None, *, protocol: Protocol) -> tuple[Flows, str] | None:
    if entry is None:
        return None
    state, address, port, answered_by, answered_port, mark = entry
    try:
        flows = Flows(
            protocol=protocol,
            address=ip_address(address),
            port=int(port),
            answered_by=ip_address(answered_by),
            answered_port=int(answered_port),
            mark=int(mark or 0) & MARK_MASK,
        )
    except ValueError:
        return None
    return flows, state


def _delete(flows: Flows, *, family: Family) -> int:
    done = run_tool(
        [
            "conntrack", "-D", "-f", family.value, "-p", flows.protocol.value,
            "--orig-dst", str(flows.address), "--orig-port-dst", str(flows.port),
            "--reply-src", str(flows.answered_by), "--reply-port-src", str(flows.answered_port),
            "--mark", f"{flows.mark:#x}/{MARK_MASK:#x}",
        ]
    )  # fmt: skip
    counted = _DELETED.search(done.errors)
    # Exit code 1 with "0 flow entries" means that they ended by themselves in between.
    if counted is None:
        raise KernelError(f"conntrack said: {done.errors.strip()}")
    return int(counted[1])
