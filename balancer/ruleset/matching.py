"""Which share of all packets like one meets the conditions of a rule; `trace` walks with it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from balancer.domain.types import Address, Network, Protocol
from balancer.ruleset.hashing import part_of_address
from balancer.ruleset.ir import HASH_FAN_OUT, SYN, Chance, Listed, Nth, Rule
from balancer.ruleset.targets import Dnat


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
class Flow:
    """A share of the connections that are in one state."""

    share: Fraction
    mark: int = 0
    to: Dnat | None = None
    parts: tuple[tuple[int, int], ...] = ()
    """Seed -> mask of the parts in which these clients can still be; all parts where it is not named."""


class Matcher:
    """A packet on its way; what the way itself has made of it so far is in the `Flow`."""

    def __init__(self, *, packet: Packet, lists: Mapping[str, tuple[Network, ...]]) -> None:
        self.packet = packet
        self.untracked = False
        """Whether it was kept from connection tracking."""
        self._lists = lists
        self._from_proxy = False

    def go_on_from_proxy(self) -> None:
        """From here on it is the node's own SYN proxy that sends the packet."""
        self.packet, self._from_proxy = replace(self.packet, interface=None), True

    def taken(self, rule: Rule, flow: Flow) -> Fraction:
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

    def parts(self, rule: Rule, flow: Flow, *, taken: bool) -> tuple[tuple[int, int], ...]:
        """`Flow.parts` behind a rule, of what the rule took or of what it left."""
        if rule.source_hash is None or not self._meets(rule, flow):
            return flow.parts
        seed, mask = rule.source_hash.seed, rule.source_hash.mask
        left = self._possible(flow, seed) & (mask if taken else ~mask)
        return tuple(sorted({**dict(flow.parts), seed: left}.items()))

    def _meets(self, rule: Rule, flow: Flow) -> bool:
        packet = self.packet
        ports = rule.destination_ports
        return (
            (rule.in_interface is None or _is_interface(packet.interface, rule.in_interface))
            and (rule.source is None or (packet.source is not None and packet.source in rule.source))
            and (rule.clients is None or rule.clients in packet.known_in)
            and (rule.listed is None or self._is_listed(rule.listed))
            and not (rule.faster or rule.more_than or rule.not_syn)
            and (rule.protocol is None or rule.protocol is packet.protocol)
            and (rule.destination is None or packet.destination in rule.destination)
            and rule.source_ports is None  # asked of backends' packets alone
            and (ports is None or ports.first <= packet.port <= ports.last)
            and (not rule.destination_local or packet.destination_local)
            and rule.tcp_flags in {None, SYN}
            and (not rule.source_elsewhere or packet.interface is not None or self._from_proxy)
            and (rule.ct_state is None or rule.ct_state in self._states(flow))
            and (rule.connmark is None or flow.mark & rule.connmark.mask == rule.connmark.value)
        )

    def _states(self, flow: Flow) -> set[str]:
        if self.untracked:
            return {"INVALID,UNTRACKED"}
        return {"NEW"} if flow.to is None else {"NEW", "DNAT"}

    def _is_listed(self, listed: Listed) -> bool:
        source = self.packet.source
        if source is None:
            return False
        return any(source in network for network in self._lists[listed.name]) is not listed.outside

    def _possible(self, flow: Flow, seed: int) -> int:
        """The parts in which the clients can be: one, where the client is given."""
        if self.packet.source is not None:
            return 1 << part_of_address(self.packet.source.packed, seed)
        return dict(flow.parts).get(seed, (1 << HASH_FAN_OUT) - 1)


def _is_interface(name: str | None, pattern: str) -> bool:
    if name is None:
        return False
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
