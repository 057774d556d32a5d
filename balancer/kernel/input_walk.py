"""The walk of a client's first packet through the chains of INPUT, whoever keeps them. Pure.

The readers (`input_rules`, `native_input`) say of each rule which packets it is about, as far as that can be
said; here those are brought together along the chains.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from balancer.domain.observation import InputRule
from balancer.kernel.input_matches import EVERYTHING, Impossible, Packets
from balancer.ruleset.ir import OWN_PREFIX

RULES_KEPT = 500
"""A ban list may have a hundred thousand; nobody reads more, and the row stays small."""
RULES_READ = 20_000
"""Chains that are reached on many ways are read once for each; this bounds it."""
DEPTH_MAX = 32


@dataclass(frozen=True, slots=True)
class ReadRule:
    """One rule, or one way through it."""

    text: str
    packets: tuple[Packets, ...]
    """Any of these; none where no first packet of a client is like that."""
    verdict: str = ""
    """ACCEPT, DROP or REJECT."""
    leads: str = ""
    """The chain to which it jumps."""
    is_goto: bool = False
    returns: bool = False


T = TypeVar("T")


@dataclass(slots=True)
class Walk(Generic[T]):
    chains: Mapping[str, Sequence[T]]
    """Chain -> its rules, as they are kept where they come from."""
    read_rule: Callable[[str, T], Iterable[ReadRule]]
    """Chain and rule -> the ways through it."""
    found: list[InputRule] = field(default_factory=list)
    left_out: int = 0
    read: int = 0

    def follow(self, chain: str, packets: Packets, *, path: tuple[str, ...] = ()) -> bool:
        """Collects what the chain does to `packets`; whether it decides about every one of them."""
        left: list[Packets] = []
        for kept in self.chains.get(chain, ()):
            self.read += 1
            if self.read > RULES_READ:
                self.left_out += 1
                continue
            for rule, own in self._ways(chain, kept):
                try:
                    both = _without(packets.meet(own), left)
                except Impossible:
                    continue
                ended = self._apply(rule, both, chain=chain, path=path)
                if own == EVERYTHING and (ended or rule.is_goto or rule.returns):
                    return ended
                if rule.returns or rule.is_goto:
                    left.append(both)
        return False

    def _ways(self, chain: str, kept: T) -> Iterator[tuple[ReadRule, Packets]]:
        return ((rule, own) for rule in self.read_rule(chain, kept) for own in rule.packets)

    def _apply(self, rule: ReadRule, packets: Packets, *, chain: str, path: tuple[str, ...]) -> bool:
        if rule.verdict:
            self.found.append(_rule(rule.text, packets, chain=chain, verdict=rule.verdict))
            return True
        if not rule.leads or rule.leads.startswith(OWN_PREFIX) or len(path) >= DEPTH_MAX:
            return False
        return self.follow(rule.leads, packets, path=(*path, chain))


def _rule(text: str, packets: Packets, *, chain: str, verdict: str) -> InputRule:
    return InputRule(
        text=text,
        chain=chain,
        verdict=verdict,
        protocol=packets.protocol,
        ports=packets.ports,
        in_interface=packets.in_interface,
        source=packets.source,
        destination=packets.destination,
        exact=packets.exact,
        unread=packets.unread,
    )


def _without(packets: Packets, left: list[Packets]) -> Packets:
    """The packets as a rule of a chain meets them, after some of them may have left the chain."""
    for gone in left:
        try:
            packets.meet(gone)
        except Impossible:
            continue
        return replace(packets, unread=(*packets.unread, "an exception before it (RETURN or a goto)"))
    return packets
