"""What a lab needs for IPv6 beside its IPv4: networks, and the settings of its namespaces. Pure."""

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

_ROUTER_HOST = 0xFFFE


@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv6:
    """IPv6 networks of a lab. Backends are always behind the router: nobody answers for their neighbours."""

    clients: IPv6Network
    lan: IPv6Network
    first_segment: IPv6Network
    """The k-th interface name gets the k-th /64 from its first address on."""
    backends: tuple[IPv6Network, ...]
    """Every address in these answers."""

    @property
    def router(self) -> IPv6Address:
        return self.lan[_ROUTER_HOST]


def ipv6_sysctls(*, forwarding: bool) -> tuple[tuple[str, str], ...]:
    return (
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
        # Nothing waits for the detection of duplicate addresses, and nobody advertises anything.
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/all/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        # IPv4 lets a program speak from any address that is routed to loopback; IPv6 wants to be told.
        ("net/ipv6/ip_nonlocal_bind", "1"),
        ("net/ipv6/conf/all/forwarding", "1" if forwarding else "0"),
    )
