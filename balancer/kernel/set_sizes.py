"""How many buckets a set of clients gets. Pure.

The kernel makes a set larger when ipset adds to it, and never when a packet does: a client whose bucket is
full stays unknown (ipset(8), HASH TYPES; mtype_add in net/netfilter/ipset/ip_set_hash_gen.h). A bucket has
room for 12. Where there are two clients for each bucket, one of eight million is turned away, and where there
are three, one of 150,000 (Poisson). A bucket takes 16 bytes, clients or not.
"""

from collections.abc import Mapping

from balancer.ruleset.ir import Ruleset
from balancer.ruleset.sets import members_of_groups, sets_of

BUCKETS_OF_ALL = 1 << 22
"""64 MiB for the sets of a ruleset, whatever their number up to 2,000."""
BUCKETS_MIN, BUCKETS_MAX = 1 << 11, 1 << 16
"""Of one backend; the set of a group has as many as those of its backends together."""
CROWDED = 2
"""Clients for each bucket."""


def buckets_of(ruleset: Ruleset) -> Mapping[str, int]:
    """Set -> how many buckets it is made with."""
    groups = members_of_groups(ruleset)
    weights = {one.name: len(groups.get(one.name, ())) or 1 for one in sets_of(ruleset)}
    share = BUCKETS_OF_ALL // max(1, sum(weights.values()))
    single = min(max(_power_of_two(share), BUCKETS_MIN), BUCKETS_MAX)
    return {name: _power_of_two(single * weight) for name, weight in weights.items()}


def buckets_for(clients: int) -> int:
    """For a set that has become crowded: room for twice as many."""
    return _power_of_two(clients) * 2


def _power_of_two(number: int) -> int:
    """The largest that is not above."""
    return 1 << (number.bit_length() - 1)
