"""What INPUT would do with a client's packet to a published port, had it not been redirected before.

Redirected packets never meet INPUT: they go through FORWARD. Rules there that used to protect a port protect
it no longer once a service has it, so a reviewer wants to see them.

Followed are INPUT and the chains it leads to, as ufw, firewalld's iptables backend and fail2ban build them.
Rules behind one that decides everything, and our own chains, are left out (`input_walk`).
"""

from balancer.domain.observation import ACCEPT, DROP, REJECT, InputPath
from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from balancer.kernel.input_matches import EVERYTHING, Impossible, read_rule
from balancer.kernel.input_walk import RULES_KEPT, ReadRule, Walk
from balancer.ruleset.parse import Snapshot

_VERDICTS = {ACCEPT, DROP, REJECT}


def find_input_path(snapshot: Snapshot, *, flavour: Flavour, family: Family = Family.IPV4) -> InputPath:
    """What `snapshot` of one flavour would do. Never raises."""
    table = snapshot.table("filter")
    walk = Walk(table.chains, lambda chain, text: (_read(chain, text),))
    walk.follow("INPUT", EVERYTHING)
    return InputPath(
        flavour=flavour.value,
        family=family,
        policy=table.policies.get("INPUT", ACCEPT),
        rules=tuple(walk.found[:RULES_KEPT]),
        left_out=walk.left_out + max(0, len(walk.found) - RULES_KEPT),
    )


def _read(chain: str, text: str) -> ReadRule:
    words = f"-A {chain} {text}"
    try:
        packets, target, is_goto = read_rule(text)
    except Impossible:
        return ReadRule(words, ())
    if target in _VERDICTS:
        return ReadRule(words, (packets,), verdict=target)
    if target == "RETURN":
        return ReadRule(words, (packets,), returns=True)
    return ReadRule(words, (packets,), leads=target, is_goto=is_goto)
