"""What INPUT would do with a client's packet to a published port, had it not been redirected before.

Redirected packets never meet INPUT: they go through FORWARD. Rules there that used to protect a port protect
it no longer once a service has it, so a reviewer wants to see them.

Followed are INPUT and the chains it leads to, as ufw, firewalld's iptables backend and fail2ban build them.
Rules behind one that decides everything, and our own chains, are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from balancer.domain.observation import ACCEPT, DROP, REJECT, InputPath, InputRule
from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from balancer.kernel.input_matches import EVERYTHING, Impossible, Packets, read_rule
from balancer.ruleset.ir import OWN_PREFIX
from balancer.ruleset.parse import Snapshot

RULES_KEPT = 500
"""A ban list may have a hundred thousand; nobody reads more, and the row stays small."""
RULES_READ = 20_000
"""Chains that are reached on many ways are read once for each; this bounds it."""
DEPTH_MAX = 32

_VERDICTS = {ACCEPT, DROP, REJECT}


def find_input_path(snapshot: Snapshot, *, flavour: Flavour, family: Family = Family.IPV4) -> InputPath:
    """What `snapshot` of one flavour would do. Never raises."""
    table = snapshot.table("filter")
    walk = _Walk(table.chains)
    walk.follow("INPUT", EVERYTHING, path=())
    return InputPath(
        flavour=flavour.value,
        family=family,
        policy=table.policies.get("INPUT", ACCEPT),
        rules=tuple(walk.found[:RULES_KEPT]),
        left_out=walk.left_out + max(0, len(walk.found) - RULES_KEPT),
    )


@dataclass(slots=True)
class _Walk:
    chains: Mapping[str, tuple[str, ...]]
    found: list[InputRule] = field(default_factory=list)
    left_out: int = 0
    read: int = 0

    def follow(self, chain: str, packets: Packets, *, path: tuple[str, ...]) -> bool:
        """Collects what the chain does to `packets`; whether it decides about every one of them."""
        left: list[Packets] = []
        for text in self.chains.get(chain, ()):
            self.read += 1
            if self.read > RULES_READ:
                self.left_out += 1
                continue
            try:
                own, target, is_goto = read_rule(text)
                both = _without(packets.meet(own), left)
            except Impossible:
                continue
            ended = self._apply(f"-A {chain} {text}", both, chain=chain, target=target, path=path)
            if own == EVERYTHING and (ended or is_goto or target == "RETURN"):
                return ended
            if target == "RETURN" or is_goto:
                left.append(both)
        return False

    def _apply(self, text: str, packets: Packets, *, chain: str, target: str, path: tuple[str, ...]) -> bool:
        if target in _VERDICTS:
            self.found.append(_rule(text, packets, chain=chain, verdict=target))
            return True
        if target not in self.chains or target.startswith(OWN_PREFIX) or len(path) >= DEPTH_MAX:
            return False
        return self.follow(target, packets, path=(*path, chain))


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
