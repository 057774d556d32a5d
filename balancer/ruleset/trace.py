"""Where a new connection goes: a packet walked through the rules, with exact fractions.

The tracer reads rules only; it knows nothing of how they were compiled. It is checked against the kernel in
tests/lab, not only against itself.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address

from balancer.domain.types import Address, Document, Family, Protocol, Service, format_endpoint
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import (
    Accept,
    Chance,
    Dnat,
    Drop,
    Goto,
    Jump,
    Masquerade,
    Nth,
    Reject,
    Return,
    Rule,
    Ruleset,
    SetConnMark,
    TableName,
    Target,
)
from balancer.ruleset.render import render_rule

_EXAMPLE = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8::1")}
"""Addresses for documentation (RFC 5737, RFC 3849): nobody's, so they match no exact address by accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a connection, as it arrives at the node."""

    interface: str
    protocol: Protocol
    source: Address
    destination: Address
    port: int
    destination_local: bool = True
    """Whether the destination is an address of the node; only the node knows."""


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
    steps: tuple[Step, ...]

    @property
    def matched(self) -> bool:
        return self.unmatched == 0


def trace_packet(ruleset: Ruleset, packet: Packet) -> Trace:
    """Follow a packet through nat PREROUTING, filter INPUT or FORWARD, and nat POSTROUTING."""
    return _Walk(ruleset, packet).run()


def trace_service(document: Document, service: Service) -> Trace:
    """Trace a connection to a service of the document, by the rules compiled from the whole document."""
    example = _EXAMPLE[service.family]
    packet = Packet(
        interface=service.interface,
        protocol=service.protocol,
        source=example,
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

    def run(self) -> Trace:
        ends = self._enter(TableName.NAT, "PREROUTING", _Flow(Fraction(1)))
        backends: dict[Dnat, Fraction] = defaultdict(Fraction)
        refused = dropped = unmatched = Fraction(0)
        masqueraded = []
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
                masqueraded.append(self._masquerades(together))
                for flow in group:
                    if flow.to is not None:
                        backends[flow.to] += flow.share
        return Trace(
            service=self._service,
            shares={
                format_endpoint(address=to.address, port=to.port): backends[to]
                for to in sorted(backends, key=lambda to: (int(to.address), to.port))
            },
            refused=refused,
            dropped=dropped,
            unmatched=unmatched,
            masqueraded=bool(masqueraded) and all(masqueraded),
            steps=tuple(self._steps),
        )

    def _filter(self, flow: _Flow) -> Target | None:
        local = flow.to is None and self._packet.destination_local
        ends = self._enter(TableName.FILTER, "INPUT" if local else "FORWARD", flow)
        return ends.done[0][0] if ends.done else None

    def _masquerades(self, flow: _Flow) -> bool:
        ends = self._enter(TableName.NAT, "POSTROUTING", flow)
        return any(isinstance(target, Masquerade) for target, _ in ends.done)

    def _enter(self, name: TableName, builtin: str, flow: _Flow) -> _Ends:
        ends = _Ends(passed=[flow])
        for jump_from, chain in self._ruleset.table(name).jumps:
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
            yield _Flow(flow.share - taken, flow.mark, flow.to)
        if not taken:
            return
        hit = _Flow(taken, flow.mark, flow.to)
        if rule.comment is not None and table is TableName.NAT:
            self._service = rule.comment
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
                yield _Flow(taken, (flow.mark & ~mark.mask) ^ mark.value, flow.to)
            case Dnat():
                ends.done.append((rule.target, _Flow(taken, flow.mark, rule.target)))
            case Accept() | Drop() | Reject() | Masquerade():
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
        return Fraction(1)

    def _meets(self, rule: Rule, flow: _Flow) -> bool:
        packet = self._packet
        ports = rule.destination_ports
        return (
            (rule.in_interface is None or _is_interface(packet.interface, rule.in_interface))
            and (rule.protocol is None or rule.protocol is packet.protocol)
            and (rule.destination is None or packet.destination in rule.destination)
            and (ports is None or ports.first <= packet.port <= ports.last)
            and (not rule.destination_local or packet.destination_local)
            and (rule.ct_state is None or (rule.ct_state == "DNAT" and flow.to is not None))
            and (rule.connmark is None or flow.mark & rule.connmark.mask == rule.connmark.value)
        )


def _alike(flows: list[_Flow]) -> list[list[_Flow]]:
    """Flows that the rules behind nat PREROUTING cannot tell apart: none of them looks at the backend."""
    groups: dict[tuple[int, bool], list[_Flow]] = defaultdict(list)
    for flow in flows:
        groups[flow.mark, flow.to is None].append(flow)
    return list(groups.values())


def _is_interface(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
