"""Where a new connection goes: a packet walked through the rules, with exact fractions.

The tracer reads rules only; it knows nothing of how they were compiled. It is checked against the kernel in
tests/kernel/behaviours, not only against itself.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address

from balancer.domain.types import Address, Document, Family, Service, format_endpoint
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Rule, Ruleset, TableName
from balancer.ruleset.matching import Flow, Matcher, Packet
from balancer.ruleset.reasons import Reason, reason_of
from balancer.ruleset.render import render_pool, render_rule
from balancer.ruleset.targets import (
    Accept,
    Dnat,
    Drop,
    Goto,
    Jump,
    LimitSegments,
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


@dataclass(slots=True)
class _Ends:
    """What became of the flows that entered a chain."""

    done: list[tuple[Target, Flow]] = field(default_factory=list)
    passed: list[Flow] = field(default_factory=list)
    """Came out at the end of the chain."""


class _Walk:
    def __init__(self, ruleset: Ruleset, packet: Packet) -> None:
        self._ruleset = ruleset
        self._matcher = Matcher(packet=packet, lists=ruleset.lists)
        self._steps: list[Step] = []
        self._service: str | None = None
        self._why: Reason | None = None

    def run(self) -> Trace:
        if self._matcher.packet.interface is not None and self._is_proxied():
            self._matcher.go_on_from_proxy()
        self._matcher.untracked = False
        entry = "OUTPUT" if self._matcher.packet.interface is None else "PREROUTING"
        ends = self._enter(TableName.NAT, entry, Flow(Fraction(1)))
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
                        backends[flow.to.address, flow.to.port_for(self._matcher.packet.port)] += flow.share
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
        whole = Flow(Fraction(1))
        ends = self._enter(TableName.RAW, "PREROUTING", whole)
        self._matcher.untracked = any(isinstance(target, NoTrack) for target, _ in ends.done)
        return self._matcher.untracked and isinstance(self._filter(whole), SynProxy)

    def _filter(self, flow: Flow) -> Target | None:
        packet = self._matcher.packet
        if packet.interface is None:
            builtin = "OUTPUT"
        else:
            builtin = "INPUT" if flow.to is None and packet.destination_local else "FORWARD"
        ends = self._enter(TableName.FILTER, builtin, flow)
        return ends.done[0][0] if ends.done else None

    def _source(self, flow: Flow) -> Target | None:
        """What gives the flow another source; None where it keeps its own."""
        ends = self._enter(TableName.NAT, "POSTROUTING", flow)
        return ends.done[0][0] if ends.done else None

    def _enter(self, name: TableName, builtin: str, flow: Flow) -> _Ends:
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

    def _chain(self, table: TableName, name: str, flow: Flow) -> _Ends:
        ends = _Ends()
        here = [flow]
        for rule in self._ruleset.table(table).chains[name]:
            here = [left for one in here for left in self._rule(table, name, rule, one, ends)]
            if not here:
                break
        ends.passed += here
        return ends

    def _rule(self, table: TableName, chain: str, rule: Rule, flow: Flow, ends: _Ends) -> Iterator[Flow]:
        """Yields what goes on to the next rule of the chain; what ends or leaves goes into `ends`."""
        taken = flow.share * self._matcher.taken(rule, flow)
        self._steps.append(Step(table, chain, rule, taken))
        if taken < flow.share:
            yield replace(flow, share=flow.share - taken, parts=self._matcher.parts(rule, flow, taken=False))
        if taken:
            if rule.comment is not None and table is TableName.NAT:
                self._service = rule.comment
            self._why = reason_of(rule) or self._why
            hit = replace(flow, share=taken, parts=self._matcher.parts(rule, flow, taken=True))
            yield from self._go_on(table, rule, hit, ends)

    def _go_on(self, table: TableName, rule: Rule, hit: Flow, ends: _Ends) -> Iterator[Flow]:
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
            case Remember() | StripTimestamps() | LimitSegments() | Log():
                yield hit
            case Dnat():
                ends.done.append((rule.target, replace(hit, to=rule.target)))
            case Accept() | Drop() | Reject() | Masquerade() | Snat() | NoTrack() | SynProxy():
                ends.done.append((rule.target, hit))


def _alike(flows: list[Flow]) -> list[list[Flow]]:
    """Flows that the rules behind nat PREROUTING cannot tell apart: none of them looks at the backend."""
    groups: dict[tuple[int, bool], list[Flow]] = defaultdict(list)
    for flow in flows:
        groups[flow.mark, flow.to is None].append(flow)
    return list(groups.values())
