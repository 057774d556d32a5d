"""After the rules: connections that the kernel remembers and that the new rules would decide otherwise.

An established flow never meets the nat table again, so a rule change alone leaves it where it was. That is
what we want for TCP, except on backends that are disabled. A UDP client that keeps sending never ends its
flow: it would stay on a removed backend, or unbalanced from before the service existed, for ever.
The table is read once, line by line, and what is stale is deleted entry by entry; it is never flushed.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from ipaddress import ip_address

from balancer.domain.types import (
    Address,
    Backend,
    BackendState,
    Document,
    Family,
    Protocol,
    Service,
)
from balancer.kernel.base import KernelError
from balancer.kernel.client_side import find_client_interfaces
from balancer.kernel.conntrack_delete import Direction, Entry, delete_entries
from balancer.kernel.nudge import nudge_ends
from balancer.kernel.owning import PortIndex, nearest
from balancer.kernel.tools import read_lines
from balancer.ruleset.compile import MARK_BALANCED, MARK_MASK, MARK_MASQUERADE

_MARKS_OF_BALANCED = {MARK_BALANCED, MARK_BALANCED | MARK_MASQUERADE}
_ENTRY = re.compile(
    r"\S+ +\d+ +(?:\d+ )?(?:([A-Z_0-9]+) )?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) "
    r".*?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)"
    r"(?: .*?mark=(\d+))?(?: .*?zone=(\d+))?(?: .*?id=(\d+))?"
)
"""State (TCP, SCTP); source, destination and their ports of the original direction, the same of the reply;
mark, zone, id. Of what a flow table forwards ([OFFLOAD]) the kernel tells neither state nor seconds."""
_ID = re.compile(r" id=(\d+)")
_OF_FLOWS = (0, 2, 4, 5, 7, 9)
"""Which groups do not tell clients apart: state, original destination, who answers, mark."""
_FEW = 4
"""Addresses for which conntrack(8) is asked one by one: what it does not print, nobody has to read."""
_address = lru_cache(maxsize=1 << 14)(ip_address)


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
    judge, removed, warnings = Judge(document, family=family, local_addresses=local_addresses), 0, []
    for protocol in sorted(protocol for protocol in Protocol if judge.may_find_stale(protocol)):
        try:
            removed += _remove(_stale_entries(judge, protocol=protocol, family=family), protocol=protocol)
        except KernelError as error:
            warnings.append(
                f"Connections ({protocol}) that the kernel remembers could not be brought in line: {error}"
            )
    return Reconciled(removed=removed, warnings=tuple(warnings))


def _remove(entries: Iterator[Entry], *, protocol: Protocol) -> int:
    if protocol is not Protocol.TCP:
        return delete_entries(entries)
    cut = tuple(entries)
    try:
        return delete_entries(cut)
    finally:
        nudge_ends(cut)


def _stale_entries(judge: "Judge", *, protocol: Protocol, family: Family) -> Iterator[Entry]:
    """Without what a helper of the kernel brought along: it has our mark from the connection that asked for
    it, and no service covers its ports. TCP is stale only where a service has its backend disabled."""
    brought = cache(partial(_brought_along, protocol=protocol, family=family))
    for flow, entry in _judged_entries(judge, protocol=protocol, family=family):
        if protocol is not Protocol.UDP or not flow.is_balanced or entry.id not in brought():
            yield entry


def _judged_entries(judge: "Judge", *, protocol: Protocol, family: Family) -> Iterator[tuple[Flows, Entry]]:
    disputed: set[Flows] = set()

    def is_wanted(flow: Flows) -> bool:
        if judge.is_disputed(flow):
            disputed.add(flow)
        return flow in disputed or judge.is_stale(flow)

    asked: list[tuple[Flows, Entry]] = []
    answered_by = judge.cut_addresses(protocol) if protocol is not Protocol.UDP else None
    for flow, entry in find_entries(is_wanted, protocol=protocol, family=family, answered_by=answered_by):
        if disputed and flow in disputed:
            asked.append((flow, entry))
        else:
            yield flow, entry
    interfaces = find_client_interfaces((e.original.source, e.original.destination) for _, e in asked)
    for flow, entry in asked:
        interface = interfaces.get((entry.original.source, entry.original.destination))
        if interface is not None and judge.is_stale(flow, interface=interface):
            yield flow, entry


def find_stale(
    flows: Iterable[Flows], *, document: Document, family: Family, local_addresses: frozenset[Address]
) -> tuple[Flows, ...]:
    """The flows that the document's rules would not let be as they are, whoever the client is."""
    judge = Judge(document, family=family, local_addresses=local_addresses)
    return tuple(sorted({flow for flow in flows if judge.is_stale(flow)}, key=str))


class Judge:
    """Tells of flows whether a document's rules would let them be as they are."""

    def __init__(self, document: Document, *, family: Family, local_addresses: frozenset[Address]) -> None:
        self._named = {s.name: s for s in document.services if s.enabled and s.family is family}
        self._services = PortIndex(self._named.values())
        self._local = local_addresses

    def is_stale(self, flow: Flows, *, interface: str | None = None) -> bool:
        """With an interface, of the clients there. Without, what any service could own is left alone."""
        covering = nearest(self._covering(flow), interface=interface)
        if interface is not None and not covering:
            return False
        if not flow.is_balanced:
            return flow.protocol is Protocol.UDP and not flow.is_translated and bool(covering)
        if flow.protocol is Protocol.UDP:
            now = (b for s in covering for b in self._answering(s, flow, follow=lambda s: s.stand_in))
            return not any(b.up and b.state is not BackendState.DISABLED for b in now)
        ever = {
            b.state for s in covering for b in self._answering(s, flow, follow=lambda s: s.all_down_service)
        }
        return ever == {BackendState.DISABLED}

    def cut_addresses(self, protocol: Protocol) -> frozenset[Address]:
        """Who answers connections, other than UDP flows, that may be stale."""
        services = (service for service in self._named.values() if service.protocol is protocol)
        backends = (backend for service in services for backend in service.backends)
        return frozenset(b.address for b in backends if b.state is BackendState.DISABLED)

    def may_find_stale(self, protocol: Protocol) -> bool:
        return protocol is Protocol.UDP or bool(self.cut_addresses(protocol))

    def is_disputed(self, flow: Flows) -> bool:
        """Whether it depends on the client's interface, which is not in a conntrack entry."""
        covering = nearest(self._covering(flow))
        if len({service.interfaces for service in covering}) < 2 or self.is_stale(flow):
            return False
        return any(self.is_stale(flow, interface=name) for s in covering for name in s.interfaces)

    def _answering(
        self, service: Service, flow: Flows, *, follow: Callable[[Service], str | None]
    ) -> Iterator[Backend]:
        """The backends that answer it: the service's own, and those of services that stand in for it."""
        at: Service | None = service
        seen: set[str] = set()
        while at is not None and at.name not in seen:
            seen.add(at.name)
            yield from (backend for backend in at.backends if _answers(at, backend, flow))
            at = self._named.get(follow(at) or "")

    def _covering(self, flow: Flows) -> list[Service]:
        candidates = self._services.at(flow.protocol, flow.port)
        return [s for s in candidates if _covers(s, flow, local_addresses=self._local)]


def count_entries(*, protocol: Protocol, family: Family) -> dict[tuple[Flows, str], int]:
    """How many entries there are of each flow in each state (as conntrack(8) spells it; empty for UDP)."""
    # Texts are counted and only the different ones are read: there may be a million lines.
    texts: Counter[tuple[str, ...]] = Counter()
    for groups in _take_apart(protocol=protocol, family=family):
        texts[tuple(groups[i] for i in _OF_FLOWS)] += 1
    counts: dict[tuple[Flows, str], int] = {}
    for entry, count in texts.items():
        found = _parse(entry, protocol=protocol)
        if found is not None:
            counts[found] = counts.get(found, 0) + count
    return counts


def find_entries(
    is_wanted: Callable[[Flows], bool],
    *,
    protocol: Protocol,
    family: Family,
    answered_by: Collection[Address] | None = None,
) -> Iterator[tuple[Flows, Entry]]:
    """The single entries of some flows, while the table is read; maybe of those alone that these answer."""
    known: dict[tuple[str, ...], Flows | None] = {}
    for groups in _take_apart(protocol=protocol, family=family, answered_by=answered_by):
        text = tuple(groups[i] for i in _OF_FLOWS)
        if text not in known:
            found = _parse(text, protocol=protocol)
            known[text] = found[0] if found is not None and is_wanted(found[0]) else None
        flows = known[text]
        if flows is not None:
            yield flows, _entry(groups, protocol=protocol)


def _entry(groups: tuple[str, ...], *, protocol: Protocol) -> Entry:
    state, *ways, _, zone, number = groups
    original, reply = (
        Direction(
            source=_address(source),
            source_port=int(source_port),
            destination=_address(destination),
            port=int(port),
        )
        for source, destination, source_port, port in (ways[:4], ways[4:])
    )
    return Entry(
        protocol=protocol, original=original, reply=reply, state=state, id=int(number), zone=int(zone or 0)
    )


def _covers(service: Service, flow: Flows, *, local_addresses: frozenset[Address]) -> bool:
    if service.addresses:
        return flow.address in service.addresses
    # A balanced flow was to an address of this machine when it began; the address may have gone since.
    return flow.is_balanced or flow.address in local_addresses


def _answers(service: Service, backend: Backend, flow: Flows) -> bool:
    """A service with one port sends all that it gets to the one of its backend, also for another service."""
    one = service.span.first == service.span.last
    port = backend.port if one else service.backend_port(backend, flow.port)
    return (backend.address, port) == (flow.answered_by, flow.answered_port)


def _brought_along(*, protocol: Protocol, family: Family) -> frozenset[int]:
    """The ids of entries that began as a helper expected. The kernel picks them out itself."""
    arguments = ["conntrack", "-L", "-f", family.value, "-p", protocol.value, "-u", "EXPECTED", "-o", "id"]
    return frozenset(int(found[1]) for line in read_lines(arguments) if (found := _ID.search(line)))


def _take_apart(
    *, protocol: Protocol, family: Family, answered_by: Collection[Address] | None = None
) -> Iterator[tuple[str, ...]]:
    """Each line of conntrack -L as the groups of _ENTRY: the original direction first, the reply second."""
    arguments = ["conntrack", "-L", "-f", family.value, "-p", protocol.value, "-o", "id"]
    if protocol is not Protocol.UDP:
        arguments += ["--mark", f"{MARK_BALANCED:#x}/{MARK_BALANCED:#x}"]
    few = answered_by is not None and len(answered_by) <= _FEW
    picked = (
        [["--reply-src", str(address)] for address in sorted(answered_by or (), key=int)] if few else [[]]
    )
    for filter_ in picked:
        for line in read_lines([*arguments, *filter_]):
            found = _ENTRY.match(line)
            if found:
                yield found.groups("")


def _parse(entry: tuple[str, ...], *, protocol: Protocol) -> tuple[Flows, str] | None:
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
