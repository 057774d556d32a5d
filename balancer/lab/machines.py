"""The machines of a lab as values; `plan` makes commands of them.

::

              clients 198.51.100.0/24
              [client] .254 ── one bridge for each interface name ── 198.18.<k>.0/24
                 │                            │
           eth0 .1 [lb1] eth1          eth0 .2 [lb2] eth1
                 │ 10.0.0.1                   │ 10.0.0.2
              [backends] one bridge, 10.0.0.0/24: answers for 10.0.0.3, .4, .5, .6

With `Topology.ipv6` each machine has IPv6 addresses as well (`plan.plan_ipv6`).
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from balancer.domain.types import Address, Family
from balancer.lab.ipv6 import Ipv6

CLIENTS = IPv4Network("198.51.100.0/24")
LAN = IPv4Network("10.0.0.0/24")
SEGMENTS = IPv4Network("198.18.0.0/15")
"""RFC 2544 benchmark range: the k-th interface name gets the k-th /24 of it."""
ARTICLE_BACKENDS = tuple(IPv4Network(f"10.0.0.{last}/32") for last in (3, 4, 5, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancer:
    """One balancer machine: interfaces towards the clients, one towards the backends."""

    name: str
    lan_address: IPv4Address
    interfaces: tuple[str, ...] = ("eth0",)
    lan_interface: str = "eth1"
    addresses: tuple[tuple[str, Address], ...] = ()
    """(interface, address): further addresses of the machine; clients reach them through that interface."""
    forwarding: bool = True


ARTICLE_BALANCERS = (
    Balancer(name="lb1", lan_address=IPv4Address("10.0.0.1")),
    Balancer(name="lb2", lan_address=IPv4Address("10.0.0.2")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    prefix: str
    balancers: tuple[Balancer, ...] = ARTICLE_BALANCERS
    backends: tuple[IPv4Network, ...] = ARTICLE_BACKENDS
    """Every address in these answers, except the balancers' own."""
    gateway: str | None = None
    """The balancer that the backends' default route goes through; None is the first one."""
    clients: IPv4Network = CLIENTS
    lan: IPv4Network = LAN
    first_segment: IPv4Network = SEGMENTS
    """The k-th interface name gets the k-th /24 from its first address on."""
    router: IPv4Address | None = None
    """An address in `lan` through which backends outside it are reached; None: they are on the link."""
    ipv6: Ipv6 | None = None
    """None: the machines speak IPv4 only."""

    @property
    def client(self) -> str:
        return f"{self.prefix}client"

    @property
    def backend(self) -> str:
        return f"{self.prefix}backends"

    @property
    def namespaces(self) -> tuple[str, ...]:
        return self.client, *(self.namespace(b.name) for b in self.balancers), self.backend

    @property
    def segments(self) -> tuple[str, ...]:
        """Interface names towards the clients, each one network of its own."""
        return tuple(dict.fromkeys(name for b in self.balancers for name in b.interfaces))

    @property
    def gateway_balancer(self) -> Balancer:
        return self.balancer(self.gateway) if self.gateway else self.balancers[0]

    def namespace(self, machine: str) -> str:
        return f"{self.prefix}{machine}"

    def balancer(self, name: str) -> Balancer:
        return next(b for b in self.balancers if b.name == name)

    def segment(self, interface: str) -> IPv4Network:
        first = int(self.first_segment.network_address) + 256 * self.segments.index(interface)
        return IPv4Network((first, 24))

    def segment_ipv6(self, interface: str) -> IPv6Network:
        assert self.ipv6 is not None
        first = int(self.ipv6.first_segment.network_address) + (self.segments.index(interface) << 64)
        return IPv6Network((first, 64))

    def address_ipv6(self, balancer: str, interface: str) -> IPv6Address:
        """The balancer's own IPv6 address on an interface."""
        assert self.ipv6 is not None
        found = self.balancer(balancer)
        lan = interface == found.lan_interface
        network = self.ipv6.lan if lan else self.segment_ipv6(interface)
        return network[self.balancers.index(found) + 1]

    def clients_of(self, family: Family) -> IPv4Network | IPv6Network:
        if family is Family.IPV4:
            return self.clients
        assert self.ipv6 is not None
        return self.ipv6.clients

    def address(self, balancer: str, interface: str) -> IPv4Address:
        """The balancer's own address on an interface."""
        found = self.balancer(balancer)
        if interface == found.lan_interface:
            return found.lan_address
        return self.segment(interface)[self.balancers.index(found) + 1]


def check_topology(topology: Topology) -> str | None:
    """A sentence on what is wrong with it, or None."""
    names = [b.name for b in topology.balancers]
    if not names or len(set(names)) != len(names) or {"client", "backends"} & set(names):
        return "A lab needs balancers with different names, none called client or backends."
    if topology.gateway is not None and topology.gateway not in names:
        return f"The gateway “{topology.gateway}” is none of the balancers {', '.join(names)}."
    for balancer in topology.balancers:
        if balancer.lan_interface in balancer.interfaces or not balancer.interfaces:
            return f"{balancer.name} needs an interface towards the clients and another towards the backends."
        if balancer.lan_address not in topology.lan:
            return f"{balancer.name} has {balancer.lan_address} outside the network {topology.lan}."
        if any(interface not in balancer.interfaces for interface, _ in balancer.addresses):
            return f"{balancer.name} has an address on an interface that it does not have."
    return None
