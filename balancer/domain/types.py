"""The document as values: what a cluster carries, with no Django and no kernel in it.

Every dataclass here is frozen and hashable; collections are tuples. A value of these types is
well-formed (types and ranges hold); whether it makes sense as a whole is asked of `validation`.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SCHEMA = 1
OPERATIONAL = MappingProxyType({"operational": True})
"""Of a field that is laid over a document on its way to a kernel, and is no key of it."""


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
    LEAST_CONNECTIONS = "least-connections"


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def overlaps(self, other: "PortRange") -> bool:
        return self.first <= other.last and other.first <= self.last


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
    HTTPS = "https"
    UDP = "udp"
    ICMP = "icmp"
    PASSIVE = "passive"


class HttpMethod(StrEnum):
    """Those that change nothing at the backend."""

    GET = "GET"
    HEAD = "HEAD"
    OPTIONS = "OPTIONS"


class AllDown(StrEnum):
    KEEP = "keep"
    REFUSE = "refuse"
    SERVICE = "service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    mode: PersistenceMode = PersistenceMode.NONE
    timeout: int = 300
    """Seconds a client stays with its backend after its last new connection."""
    prefix: int | None = None
    """Clients whose addresses begin with the same number of bits stay together; None: the whole address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNat:
    mode: SourceNatMode = SourceNatMode.MASQUERADE
    address: Address | None = None
    """For snat: the address, or the first of a pool."""
    address_end: Address | None = None
    """The last address of the pool."""
    hairpin: bool = False
    """For none: masquerade the connections that come from one of the service's own backends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may begin connections. All of it is asked of what begins: connections that are there live on."""

    allow: tuple[Network, ...] = ()
    """Sorted; empty: everybody. Where it is not, all others are refused."""
    deny: tuple[Network, ...] = ()
    """Sorted; who is in both lists is refused."""
    new_per_second_per_source: int | None = None
    new_burst: int | None = None
    """New connections that a quiet source may begin at once; None: see `burst_of`."""
    connections_per_source: int | None = None
    connections_per_backend: int | None = None
    drop_invalid: bool = True
    log_refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    kind: HealthKind = HealthKind.NONE
    interval: int = 5
    """Seconds from the start of one check to that of the next."""
    timeout: int = 2
    rise: int = 2
    fall: int = 3
    port: int | None = None
    """Checked instead of each backend's own."""
    path: str = "/"
    expect_status: str = "200-399"
    address: Address | None = None
    """Checked instead of each backend's own: one answer for all of them."""
    method: HttpMethod = HttpMethod.GET
    host: str = ""
    """For http and https: the Host header, and the name that TLS asks for; empty: address and port."""
    expect_body: str = ""
    """A text that the beginning of the answer's body must hold."""
    certificate_warning_days: int = 14
    """For https: warn so long before the certificate expires; 0: never."""
    verify_certificate: bool = False
    """For https: a certificate that is not trusted, or not for `host`, is a failure."""
    send: str = ""
    """For udp, as a payload (`payload`)."""
    expect: str = ""
    """For udp: what the answer must hold. Without it silence is good, and only a refusal a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    address: Address
    port: int
    weight: int = 1
    state: BackendState = BackendState.ENABLED
    priority: int = 0
    up: bool = field(default=True, metadata=OPERATIONAL)
    """Whether health checks let it take new connections."""

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
    additional_ports: tuple[PortRange, ...] = ()
    """Sorted. A backend's port answers for `port`; the others keep their distance from it."""
    additional_addresses: tuple[Address, ...] = ()
    """Sorted."""
    additional_interfaces: tuple[str, ...] = ()
    """Sorted."""
    from_node: bool = False
    """Takes the connections that programs on the node itself make, too."""
    scheduler: Scheduler = Scheduler.ROUND_ROBIN
    slow_start: int = 0
    """Seconds in which a backend that comes back rises to its whole weight; 0: at once."""
    persistence: Persistence = field(default_factory=Persistence)
    source_nat: SourceNat = field(default_factory=SourceNat)
    access: Access = field(default_factory=Access)
    health: Health = field(default_factory=Health)
    all_down: AllDown = AllDown.KEEP
    """What holds when health checks leave no backend, or fewer than `healthy_min` percent of them."""
    all_down_service: str | None = None
    """The service that takes the connections then."""
    healthy_min: int = 0
    backends: tuple[Backend, ...] = ()
    """Sorted by address, then port."""

    @property
    def family(self) -> Family:
        """Of the address or, without one, of the backends; IPv4 where neither tells."""
        known = [self.address, *self.additional_addresses, *(backend.address for backend in self.backends)]
        versions = [address.version for address in known if address is not None]
        return Family.IPV6 if versions and versions[0] == 6 else Family.IPV4

    @property
    def last_port(self) -> int:
        return self.port if self.port_end is None else self.port_end

    @property
    def port_ranges(self) -> tuple[PortRange, ...]:
        """All of its ports: those of `port` and `port_end`, then the additional ones."""
        return PortRange(self.port, self.last_port), *self.additional_ports

    @property
    def span(self) -> PortRange:
        """From its lowest port to its highest."""
        ranges = self.port_ranges
        return PortRange(min(r.first for r in ranges), max(r.last for r in ranges))

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All of its addresses; none where any will do."""
        return () if self.address is None else (self.address, *self.additional_addresses)

    @property
    def interfaces(self) -> tuple[str, ...]:
        return self.interface, *self.additional_interfaces

    def takes_port(self, port: int) -> bool:
        return any(port in ports for ports in self.port_ranges)

    def backend_port(self, backend: "Backend", port: int) -> int:
        """Where the backend gets what comes in at `port`."""
        return backend.port + port - self.port

    @property
    def usable_backends(self) -> tuple[Backend, ...]:
        """The backends that take new connections."""
        return tuple(b for b in self.backends if b.up and b.state is BackendState.ENABLED)

    @property
    def stand_in(self) -> str | None:
        """The service that takes its new connections now: its own backends are all down."""
        enabled = any(backend.state is BackendState.ENABLED for backend in self.backends)
        return self.all_down_service if enabled and not self.usable_backends else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    services: tuple[Service, ...] = ()
    """Sorted by name; names are unique."""
    schema: int = SCHEMA


def format_endpoint(*, address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def keys_of(kind: type[Any]) -> tuple[str, ...]:
    """The fields of one of these classes that are keys of the document."""
    return tuple(f.name for f in fields(kind) if not f.metadata.get("operational"))
