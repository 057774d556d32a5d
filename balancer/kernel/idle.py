"""IPv6 rulesets without services: what they want of a kernel depends on what it holds. Pure.

Every document has rules for both families. Where nothing is balanced over IPv6, and our part was never
brought in, ip6tables are left alone: a machine without them, or without IPv6, is as good as one with both.
Once our chains are there they stay as base chains, so that established connections still pass FORWARD.
"""

from functools import cache

from balancer.domain.types import Document, Family
from balancer.kernel.plan import Wanted, want_ruleset
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import OWN_PREFIX, Ruleset
from balancer.ruleset.parse import Snapshot


def is_idle(ruleset: Ruleset) -> bool:
    """Of IPv6, and nothing but base chains, or nothing at all."""
    if ruleset.family != Family.IPV6:
        return False
    return ruleset == _base_chains() or not any(table.chains or table.jumps for table in ruleset.tables)


def want_of(ruleset: Ruleset, *, held: Snapshot | None) -> Wanted:
    """What `ruleset` wants of a kernel that holds `held`; None where that cannot be read.

    Nothing for an idle one where nothing of ours is held.
    """
    if is_idle(ruleset) and (held is None or not holds_ours(held)):
        return {}
    return want_ruleset(ruleset)


def holds_ours(held: Snapshot) -> bool:
    return any(chain.startswith(OWN_PREFIX) for table in held.tables.values() for chain in table.chains)


@cache
def _base_chains() -> Ruleset:
    return compile_document(Document(), family=Family.IPV6)
