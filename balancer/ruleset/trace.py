"""Where a new connection goes: a packet walked through the rules, with exact fractions.

The tracer reads rules only; it knows nothing of how they were compiled. It is checked against the kernel in
tests/kernel/behaviours, not only against itself.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address

from balancer.domain.types import Address, Document, Family, Protocol, Service, format_endpoint
from balancer.ruleset.compile import compile_document
from balancer.ruleset.hashing import part_of_address
from balancer.ruleset.ir import HASH_FAN_OUT, SYN, Chance, Listed, Nth, Rule, Ruleset, TableName
from balancer.ruleset.reasons import Reason, reason_of
from balancer.ruleset.render import render_pool, render_rule
from balancer.ruleset.targets import (
    Accept,
    Dnat,
    Drop,
    Goto,
    Jump,
    Log,
    Masquerade,
    NoTrack,
    Reject,
    Remember,
    Return,
    SetConnMark,
    Snat,
    StripTimestamps,
    SynProxy,
    Target,
)

_EXAMPLE = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8::1")}
"""Addresses for documentation (RFC 5737, RFC 3849): nobody's, so they match no exact address by accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a connection, as it arrives at the node or leaves it."""

    interface: str | None
    """None: a program on the node itself sends it."""
    protocol: Protocol
    source: Address | None
    """None: any client that the lists of the service let in, each as likely as another."""
    destination: Address
    port: int
    destination_local: bool = True
    """Whether the destination is an address of the node; only the node knows."""
    known_in: frozenset[str] = frozenset()
    """The sets of clients that the source is in; empty for a new client."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was tried on the way."""

    table: TableName
    chain: str
    rule: Rule
    matched: Fraction
    """Of all connections like this one, the share that the rule took."""

    def __str__(self) -> str:
        return f"{self.table} {self.chain} {render_rule(self.rule)}"


@dataclass(frozen=True, slots=True)
class Trace:
    """Fractions of all connections like the packet; shares, refused, dropped and unmatched add up to 1."""

    service: str | None
    shares: dict[str, Fraction]
    """Backend endpoint -> share, in the order of the addresses."""
    refused: Fraction
    dropped: Fraction
    unmatched: Fraction
    """Not ours: goes on as if there were no balancer."""
    masqueraded: bool
    """Whether every balanced connection gets the node's own address as its source."""
    rewritten_to: str | None
    """The address or the pool that every balanced connection gets as its source; None where there is none."""
    steps: tuple[Step, ...]
    why: Reason | None = None
    """Why the service drops or refuses, where it does."""

    @property
    def matched(self) -> bool:
        return self.unmatched == 0


def trace_packet(ruleset: Ruleset, packet: Packet) -> Trace:
    """Follow a packet through nat PREROUTING, filter INPUT or FORWARD, and nat POSTROUTING.

    One that a SYN proxy answers goes on as the proxy's own, from OUTPUT, when the client has answered.
    Limits are never exceeded: what a client and others did before is not asked. The table
    mangle holds such limits, and what concerns later packets.
    """
    return _Walk(ruleset, packet).run()


def trace_service(document: Document, service: Service) -> Trace:
    """Trace a connection to a service of the document, by the rules compiled from the whole document."""
    example = _EXAMPLE[service.family]
    packet = Packet(
        interface=service.interface,
        protocol=service.protocol,
        source=None,
        destination=service.address or example,
        port=service.port,
    )
    return trace_packet(compile_document(document, family=service.family), packet)


@dataclass(frozen=True, slots=True)
class _Flow:
    """A share of the connections that are in one state."""

    share: Fraction
    mark: int = 0
    to: Dnat | None = None
    parts: tuple[tuple[int, int], ...] = ()
    """Seed -> mask of the parts in which these clients can still be; all parts where it is not named."""


@dataclass(slots=True)
class _Ends:
    """What became of the flows that entered a chain."""

    done: list[tuple[Target, _Flow]] = field(default_factory=list)
    passed: list[_Flow] = field(default_factory=list)
    """Came out at the end of the chain."""


class _Walk:
    def __init__(self, ruleset: Ruleset, packet: Packet) -> None:
        self._ruleset = ruleset
        self._packet = packet
        self._steps: list[Step] = []
        self._service: str | None = None
        self._untracked = self._from_proxy = False
        self._why: Reason | None = None

    def run(self) -> Trace:
        if self._packet.interface is not None and self._is_proxied():
            self._packet, self._from_proxy = replace(self._packet, interface=None), True
        self._untracked = False
        entry = "OUTPUT" if self._packet.interface is None else "PREROUTING"
        ends = self._enter(TableName.NAT, entry, _Flow(Fraction(1)))
        backends: dict[tuple[Address, int], Fraction] = defaultdict(Fraction)
        refused = dropped = unmatched = Fraction(0)
        sources: list[Target | None] = []
        for group in _alike([flow for _, flow in ends.done] + ends.passed):
            share = sum((flow.share for flow in group), Fraction(0))
            together = replace(group[0], share=share)
            verdict = self._filter(together)
            if isinstance(verdict, Reject):
                refused += share
            elif isinstance(verdict, Drop):
                dropped += share
            elif together.to is None:
                unmatched += share
            else:
                sources.append(self._source(together))
                for flow in group:
                    if flow.to is not None:
                        backends[flow.to.address, flow.to.port_for(self._packet.port)] += flow.share
        pools = {s for s in sources if isinstance(s, Snat)}
        return Trace(
            service=self._service,
            shares={
                format_endpoint(address=address, port=port): backends[address, port]
                for address, port in sorted(backends, key=lambda to: (int(to[0]), to[1]))
            },
            refused=refused,
            dropped=dropped,
            why=self._why if refused or dropped else None,
            unmatched=unmatched,
            masqueraded=bool(sources) and all(isinstance(source, Masquerade) for source in sources),
            rewritten_to=render_pool(pools.pop()) if len(pools) == 1 and len(set(sources)) == 1 else None,
            steps=tuple(self._steps),
        )

    def _is_proxied(self) -> bool:
        """Whether the packet is kept from connection tracking, and a SYN proxy takes it."""
        whole = _Flow(Fraction(1))
        ends = self._enter(TableName.RAW, "PREROUTING", whole)
        self._untracked = any(isinstance(target, NoTrack) for target, _ in ends.done)
        return self._untracked and isinstance(self._filter(whole), SynProxy)

    def _filter(self, flow: _Flow) -> Target | None:
        if self._packet.interface is None:
            builtin = "OUTPUT"
        else:
            builtin = "INPUT" if flow.to is None and self._packet.destination_local else "FORWARD"
        ends = self._enter(TableName.FILTER, builtin, flow)
        return ends.done[0][0] if ends.done else None

    def _source(self, flow: _Flow) -> Target | None:
        """What gives the flow another source; None where it keeps its own."""
        ends = self._enter(TableName.NAT, "POSTROUTING", flow)
        return ends.done[0][0] if ends.done else None

    def _enter(self, name: TableName, builtin: str, flow: _Flow) -> _Ends:
        ends = _Ends(passed=[flow])
        found = next((table for table in self._ruleset.tables if table.name is name), None)
        for jump_from, chain in found.jumps if found is not None else ():
            if jump_from == builtin:
                entered, ends.passed = ends.passed, []
                for one in entered:
                    inner = self._chain(name, chain, one)
                    ends.done += inner.done
                    ends.passed += inner.passed
        return ends

    def _chain(self, table: TableName, name: str, flow: _Flow) -> _Ends:
        ends = _Ends()
        here = [flow]
        for rule in self._ruleset.table(table).chains[name]:
            here = [left for one in here for left in self._rule(table, name, rule, one, ends)]
            if not here:
                break
        ends.passed += here
        return ends

    def _rule(self, table: TableName, chain: str, rule: Rule, flow: _Flow, ends: _Ends) -> Iterator[_Flow]:
        """Yields what goes on to the next rule of the chain; what ends or leaves goes into `ends`."""
        taken = flow.share * self._taken(rule, flow)
        self._steps.append(Step(table, chain, rule, taken))
        if taken < flow.share:
            yield replace(flow, share=flow.share - taken, parts=self._parts(rule, flow, taken=False))
        if taken:
            if rule.comment is not None and table is TableName.NAT:
                self._service = rule.comment
            self._why = reason_of(rule) or self._why
            hit = replace(flow, share=taken, parts=self._parts(rule, flow, taken=True))
            yield from self._go_on(table, rule, hit, ends)

    def _go_on(self, table: TableName, rule: Rule, hit: _Flow, ends: _Ends) -> Iterator[_Flow]:
        """What comes of a flow that met all conditions of a rule."""
        match rule.target:
            case Jump(to):
                inner = self._chain(table, to, hit)
                ends.done += inner.done
                yield from inner.passed
            case Goto(to):
                inner = self._chain(table, to, hit)
                ends.done += inner.done
                ends.passed += inner.passed
            case Return():
                ends.passed.append(hit)
            case SetConnMark(mark):
                yield replace(hit, mark=(hit.mark & ~mark.mask) ^ mark.value)
            case Remember() | StripTimestamps() | Log():
                yield hit
            case Dnat():
                ends.done.append((rule.target, replace(hit, to=rule.target)))
            case Accept() | Drop() | Reject() | Masquerade() | Snat() | NoTrack() | SynProxy():
                ends.done.append((rule.target, hit))

    def _taken(self, rule: Rule, flow: _Flow) -> Fraction:
        """The share of a flow that meets all conditions of a rule."""
        if not self._meets(rule, flow):
            return Fraction(0)
        match rule.statistic:
            case Nth(every, _):
                return Fraction(1, every)
            case Chance(share):
                return share
        if rule.source_hash is None:
            return Fraction(1)
        possible = self._possible(flow, rule.source_hash.seed)
        return Fraction((possible & rule.source_hash.mask).bit_count(), possible.bit_count())

    def _possible(self, flow: _Flow, seed: int) -> int:
        """The parts in which the clients can be: one, where the client is given."""
        if self._packet.source is not None:
            return 1 << part_of_address(self._packet.source.packed, seed)
        return dict(flow.parts).get(seed, (1 << HASH_FAN_OUT) - 1)

    def _parts(self, rule: Rule, flow: _Flow, *, taken: bool) -> tuple[tuple[int, int], ...]:
        if rule.source_hash is None or not self._meets(rule, flow):
            return flow.parts
        seed, mask = rule.source_hash.seed, rule.source_hash.mask
        left = self._possible(flow, seed) & (mask if taken else ~mask)
        return tuple(sorted({**dict(flow.parts), seed: left}.items()))

    def _is_listed(self, listed: Listed) -> bool:
        source = self._packet.source
        if source is None:
            return False
        return any(source in network for network in self._ruleset.lists[listed.name]) is not listed.outside

    def _meets(self, rule: Rule, flow: _Flow) -> bool:
        packet = self._packet
        ports = rule.destination_ports
        return (
            (rule.in_interface is None or _is_interface(packet.interface, rule.in_interface))
            and (rule.source is None or (packet.source is not None and packet.source in rule.source))
            and (rule.clients is None or rule.clients in packet.known_in)
            and (rule.listed is None or self._is_listed(rule.listed))
            and not (rule.faster or rule.more_than or rule.not_syn)
            and (rule.protocol is None or rule.protocol is packet.protocol)
            and (rule.destination is None or packet.destination in rule.destination)
            and (ports is None or ports.first <= packet.port <= ports.last)
            and (not rule.destination_local or packet.destination_local)
            and rule.tcp_flags in {None, SYN}
            and (not rule.source_elsewhere or packet.interface is not None or self._from_proxy)
            and (rule.ct_state is None or rule.ct_state in self._states(flow))
            and (rule.connmark is None or flow.mark & rule.connmark.mask == rule.connmark.value)
        )

    def _states(self, flow: _Flow) -> set[str]:
        if self._untracked:
            return {"INVALID,UNTRACKED"}
        return {"NEW"} if flow.to is None else {"NEW", "DNAT"}


def _alike(flows: list[_Flow]) -> list[list[_Flow]]:
    """Flows that the rules behind nat PREROUTING cannot tell apart: none of them looks at the backend."""
    groups: dict[tuple[int, bool], list[_Flow]] = defaultdict(list)
    for flow in flows:
        groups[flow.mark, flow.to is None].append(flow)
    return list(groups.values())


def _is_interface(name: str | None, pattern: str) -> bool:
    if name is None:
        return False
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
