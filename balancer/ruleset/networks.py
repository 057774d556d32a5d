"""Lists of networks as the kernel keeps them: ipsets `hash:net`, named by what is in them."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import collapse_addresses

from balancer.domain.types import Family, Network
from balancer.ruleset import names

_NAME = re.compile(r"LB-([46])\.net-[0-9a-f]{20}")


def family_of_list(name: str) -> Family | None:
    """Of a list of ours; None where the name is none of them."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return Family.IPV6 if found[1] == "6" else Family.IPV4


@lru_cache(maxsize=256)
def make_list(networks: tuple[Network, ...]) -> tuple[str, tuple[Network, ...]]:
    """The name, and the fewest networks that hold the same addresses.

    hash:net keeps no network of zero bits (ipset(8)): everything is two halves.
    """
    whole: list[Network] = []
    for network in _collapsed(networks):
        whole.extend(network.subnets() if network.prefixlen == 0 else [network])
    kept = tuple(whole)
    version = networks[0].version
    return names.network_set(version, spell_list(kept)), kept


def spell_list(networks: Iterable[Network]) -> str:
    return "\n".join(map(str, networks))


def is_named_rightly(name: str, networks: tuple[Network, ...]) -> bool:
    """Whether the name is that of a list with these networks."""
    version = 6 if family_of_list(name) is Family.IPV6 else 4
    return names.network_set(version, spell_list(networks)) == name


def _collapsed(networks: tuple[Network, ...]) -> Iterable[Network]:
    found: Iterable[Network] = collapse_addresses(networks)  # type: ignore[type-var]
    return found
