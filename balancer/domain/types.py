"""The document as values: what a cluster carries, with no Django and no kernel in it.

Every dataclass here is frozen and hashable; collections are tuples. A value of these types is
well-formed (types and ranges hold); whether it makes sense as a whole is asked of `validation`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SCHEMA = 1


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Scheduler(StrEnum):
    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    SOURCE_HASH = "source-hash"
    FAILOVER = "failover"


class BackendState(StrEnum):
    """enabled takes new connections; draining keeps old ones only; disabled has them cut."""

    ENABLED = "enabled"
    DRAINING = "draining"
    DISABLED = "disabled"


class PersistenceMode(StrEnum):
    NONE = "none"
    SOURCE = "source"


class SourceNatMode(StrEnum):
    MASQUERADE = "masquerade"
    SNAT = "snat"
    NONE = "none"


class HealthKind(StrEnum):
    NONE = "none"
    TCP = "tcp"
    HTTP = "http"
    UDP = "udp"
    ICMP = "icmp"


class AllDown(StrEnum):
    KEEP = "keep"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    mode: PersistenceMode = PersistenceMode.NONE
    timeout: int = 300
    """Seconds a client stays with its backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNat:
    mode: SourceNatMode = SourceNatMode.MASQUERADE
    address: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    new_per_second_per_source: int | None = None
    connections_per_source: int | None = None
    drop_invalid: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    kind: HealthKind = HealthKind.NONE
    interval: int = 5
    timeout: int = 2
    rise: int = 2
    fall: int = 3
    port: int | None = None
    path: str = "/"
    expect_status: str = "200-399"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    address: Address
    port: int
    weight: int = 1
    state: BackendState = BackendState.ENABLED
    priority: int = 0

    @property
    def endpoint(self) -> str:
        """`10.0.0.3:80`, or `[2001:db8::1]:80`."""
        return format_endpoint(address=self.address, port=self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    interface: str
    protocol: Protocol
    port: int
    description: str = ""
    enabled: bool = True
    critical: bool = False
    """Changes to it need as many approvals as the cluster's policy asks for critical services."""
    address: Address | None = None
    """None means any address at which the node answers on the interface."""
    port_end: int | None = None
    scheduler: Scheduler = Scheduler.ROUND_ROBIN
    persistence: Persistence = field(default_factory=Persistence)
    source_nat: SourceNat = field(default_factory=SourceNat)
    access: Access = field(default_factory=Access)
    health: Health = field(default_factory=Health)
    all_down: AllDown = AllDown.KEEP
    backends: tuple[Backend, ...] = ()
    """Sorted by address, then port."""

    @property
    def family(self) -> Family:
        """Of the address or, without one, of the backends; IPv4 where neither tells."""
        known = [self.address, *(backend.address for backend in self.backends)]
        versions = [address.version for address in known if address is not None]
        return Family.IPV6 if versions and versions[0] == 6 else Family.IPV4

    @property
    def last_port(self) -> int:
        return self.port if self.port_end is None else self.port_end

    @property
    def usable_backends(self) -> tuple[Backend, ...]:
        """The backends that take new connections."""
        return tuple(b for b in self.backends if b.state is BackendState.ENABLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    services: tuple[Service, ...] = ()
    """Sorted by name; names are unique."""
    schema: int = SCHEMA


def format_endpoint(*, address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
