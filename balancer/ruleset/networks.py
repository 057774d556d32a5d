"""Lists of networks as the kernel keeps them: ipsets `hash:net`, named by what is in them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import collapse_addresses
from itertools import pairwise

from balancer.domain.types import Family, Network
from balancer.ruleset import names

SIZES_WANTED = 4
"""Different prefix lengths of a list."""
ROOM_FACTOR, ROOM = 2, 2000
"""A list may grow to so many times its networks, and so many more, to have fewer sizes."""
_NAME = re.compile(r"LB-([46])\.net-[0-9a-f]{20}")


def family_of_list(name: str) -> Family | None:
    """Of a list of ours; None where the name is none of them."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return Family.IPV6 if found[1] == "6" else Family.IPV4


@lru_cache(maxsize=256)
def make_list(networks: tuple[Network, ...]) -> tuple[str, tuple[Network, ...]]:
    """The name, and disjoint networks of few sizes that hold the same addresses.

    The kernel looks a client up once for each size that there is (mtype_test_cidrs in
    net/netfilter/ipset/ip_set_hash_gen.h), and keeps no network of zero bits (ipset(8)): everything is two
    halves.
    """
    fewest = list(_collapsed(networks))
    counts = Counter(network.prefixlen for network in fewest)
    into = _join_sizes(counts, room=ROOM_FACTOR * len(fewest) + ROOM)
    whole: list[Network] = []
    for network in fewest:
        bits = into[network.prefixlen]
        whole.extend(network.subnets(new_prefix=bits) if bits > network.prefixlen else [network])
    kept = tuple(whole)
    return names.network_set(networks[0].version, spell_list(kept)), kept


def _join_sizes(counts: Mapping[int, int], *, room: int) -> dict[int, int]:
    """Bits of a network -> bits of those into which it is split; as many sizes less as there is room for."""
    left = dict(counts)
    if 0 in left:
        left[1] = left.get(1, 0) + 2 * left.pop(0)
    into = {bits: max(bits, 1) for bits in counts}
    while len(left) > SIZES_WANTED:
        price, bits, longer = min(
            (left[short] * ((1 << long - short) - 1), short, long) for short, long in pairwise(sorted(left))
        )
        if sum(left.values()) + price > room:
            break
        left[longer] += left.pop(bits) << longer - bits
        into = {one: longer if to == bits else to for one, to in into.items()}
    return into


def spell_list(networks: Iterable[Network]) -> str:
    return "\n".join(map(str, networks))


def is_named_rightly(name: str, networks: tuple[Network, ...]) -> bool:
    """Whether the name is that of a list with these networks."""
    version = 6 if family_of_list(name) is Family.IPV6 else 4
    return names.network_set(version, spell_list(networks)) == name


def _collapsed(networks: tuple[Network, ...]) -> Iterable[Network]:
    found: Iterable[Network] = collapse_addresses(networks)  # type: ignore[type-var]
    return found
