"""What a rule does with the packets that it matches, as values: the targets of `ir.Rule`."""

from dataclasses import dataclass
from enum import StrEnum

from balancer.domain.types import Address


class RejectWith(StrEnum):
    TCP_RESET = "tcp-reset"
    ICMP_PORT_UNREACHABLE = "icmp-port-unreachable"
    ICMP6_PORT_UNREACHABLE = "icmp6-port-unreachable"


@dataclass(frozen=True, slots=True)
class Mark:
    """Matches where `mark & mask == value`; as a target sets the bits of `mask` to `value`."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Jump:
    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    chain: str


@dataclass(frozen=True, slots=True)
class Accept:
    pass


@dataclass(frozen=True, slots=True)
class Drop:
    pass


@dataclass(frozen=True, slots=True)
class Return:
    pass


@dataclass(frozen=True, slots=True)
class Reject:
    kind: RejectWith


@dataclass(frozen=True, slots=True)
class Dnat:
    """To one address and port; without a port, to the port that the client chose."""

    address: Address
    port: int | None
    last: int | None = None
    """Where a whole range of ports is moved: the highest one that can result, `port` being the lowest."""
    base: int | None = None
    """The client's port that becomes `port`; the others keep their distance from it."""

    def port_for(self, port: int) -> int:
        """Where a connection to `port` arrives."""
        if self.port is None:
            return port
        return self.port if self.base is None else self.port + port - self.base


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Always with `--random-fully`."""


@dataclass(frozen=True, slots=True)
class Snat:
    """To one address, or to any of a pool; always with `--random-fully`."""

    address: Address
    last: Address | None = None


@dataclass(frozen=True, slots=True)
class SetConnMark:
    mark: Mark


@dataclass(frozen=True, slots=True)
class Remember:
    """Puts the source address into a set of clients, or renews it there, for so many seconds."""

    clients: str
    timeout: int


@dataclass(frozen=True, slots=True)
class Log:
    """A line in the kernel's log, which begins with `prefix`."""

    prefix: str


@dataclass(frozen=True, slots=True)
class NoTrack:
    """The packet is kept from connection tracking; only in the table raw."""


@dataclass(frozen=True, slots=True)
class SynProxy:
    """Answers the SYN instead of the server, and the server's part only once the client has answered."""

    mss: int
    """What it announces to the client, with a window scale of SYN_PROXY_SCALE, SACK and timestamps."""


SYN_PROXY_SCALE = 7


@dataclass(frozen=True, slots=True)
class StripTimestamps:
    """Takes TCP's option of timestamps out of a packet; only in the table mangle."""


@dataclass(frozen=True, slots=True)
class LimitSegments:
    """Lowers the largest segment that a SYN says its sender takes, and never raises it (xt_TCPMSS.c)."""

    most: int


Target = (
    Jump
    | Goto
    | Accept
    | Drop
    | Return
    | Reject
    | Dnat
    | Masquerade
    | Snat
    | SetConnMark
    | Remember
    | NoTrack
    | SynProxy
    | StripTimestamps
    | LimitSegments
    | Log
)
