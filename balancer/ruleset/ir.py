"""Rules as values.

`compile` makes them, `render` spells them, `parse` reads them back, `trace` walks them and the
drivers carry them. A rule holds only what we ever write; anything else found in our chains is
`Unknown` and therefore a difference. What a rule does with a packet is in `targets`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

from balancer.domain.types import Family, Network, PortRange, Protocol
from balancer.ruleset.targets import Mark, Target

CHAIN_NAME_MAX = 28
OWN_PREFIX = "LB-"
KERNEL_PROBABILITY_UNITS = 2**31


class TableName(StrEnum):
    FILTER = "filter"
    NAT = "nat"
    MANGLE = "mangle"
    """Only where connections are counted, or a SYN proxy is used."""
    RAW = "raw"
    """Only where a SYN proxy is used."""


@dataclass(frozen=True, slots=True)
class Nth:
    """Matches packet number `packet` of every `every` that this rule sees."""

    every: int
    packet: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Chance:
    """Matches with a probability. `share` is exact; the kernel keeps it in 1/2**31
    (net/netfilter/xt_statistic.c, libxt_statistic.c), so two chances are equal when the kernel could not tell
    them apart."""

    share: Fraction

    @property
    def quantised(self) -> int:
        """0 to 2**31, rounded half up as lround(3) does for positive values."""
        return int(self.share * KERNEL_PROBABILITY_UNITS + Fraction(1, 2))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chance) and self.quantised == other.quantised

    def __hash__(self) -> int:
        return hash(self.quantised)


@dataclass(frozen=True, slots=True)
class SourceHash:
    """Matches the clients that fall into one of the parts whose bit is set in `mask`.

    `-m cluster` divides all source addresses into HASH_FAN_OUT parts; another seed divides them in another
    way (net/netfilter/xt_cluster.c). iptables 1.8.9 reads no mask above 32: more than five parts will not do.
    """

    seed: int
    mask: int
    ipv6: bool = False
    """Spelled as `-m bpf` (ruleset/address_bpf.py): xt_cluster does not look at all of an IPv6 address."""


HASH_FAN_OUT = 4


@dataclass(frozen=True, slots=True)
class TcpFlags:
    """Matches where, of the flags in `among`, just those in `set_flags` are set; `negated`: where not so."""

    among: str
    """`FIN,SYN,RST,ACK`: spelled as iptables-save does."""
    set_flags: str
    negated: bool = False


SYN = TcpFlags("FIN,SYN,RST,ACK", "SYN")
"""`--syn` of iptables-extensions(8): how a connection begins."""
NO_SYN = TcpFlags(SYN.among, SYN.set_flags, negated=True)
ACK = TcpFlags(SYN.among, "ACK")
NEITHER_SYN_NOR_RST = TcpFlags("SYN,RST", "NONE")


@dataclass(frozen=True, slots=True)
class Listed:
    """The source address is in one of the networks of a list (`Ruleset.lists`), or in none of them."""

    name: str
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Faster:
    """Matches the packets of a source beyond `burst` at once and `per_second` in the long run.

    The kernel counts in 1/1,000,000 (XT_HASHLIMIT_SCALE_v2 in net/netfilter/xt_hashlimit.c): `per_second` has
    to be a number that it can keep (`limits.rate_of_kernel`).
    """

    name: str
    """What is counted under one name is counted together, and outlives the rule while another one has it."""
    per_second: int
    burst: int
    bits: int
    """Sources whose addresses begin with the same bits are one."""

    @property
    def expire_ms(self) -> int:
        """A source is forgotten when its whole burst would have come back, and no sooner: whoever is unknown
        has a whole one."""
        return (-(-self.burst // self.per_second) + 1) * 1000


@dataclass(frozen=True, slots=True)
class MoreThan:
    """Matches where more connections than `connections` are there, this one included."""

    connections: int
    bits: int
    of_destination: bool = False
    """Those to the same destination are counted, else those from the same source."""


@dataclass(frozen=True, slots=True)
class Original:
    """Where the client sent the connection's first packet, as conntrack remembers it behind DNAT."""

    destination: Network | None
    ports: PortRange | None


@dataclass(frozen=True, slots=True)
class AtMost:
    """Matches so many packets a second, and `burst` at once."""

    per_second: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A packet that meets every condition that is set goes to `target`."""

    target: Target
    source: Network | None = None
    destination: Network | None = None
    in_interface: str | None = None
    """A trailing `+` matches every interface that begins so."""
    protocol: Protocol | None = None
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None
    tcp_flags: TcpFlags | None = None
    not_syn: bool = False
    """TCP flags other than those of a first packet: SYN alone, whatever PSH and the ECN bits say."""
    destination_local: bool = False
    """`addrtype --dst-type LOCAL`: the destination is an address of this machine."""
    source_elsewhere: bool = False
    """`addrtype ! --src-type LOCAL`: the source is no address of this machine."""
    ct_state: str | None = None
    """NEW, INVALID, DNAT, or `INVALID,UNTRACKED`."""
    original: Original | None = None
    connmark: Mark | None = None
    clients: str | None = None
    """The source address is in this set of clients."""
    listed: Listed | None = None
    faster: Faster | None = None
    more_than: MoreThan | None = None
    at_most: AtMost | None = None
    statistic: Nth | Chance | None = None
    source_hash: SourceHash | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A rule in one of our chains that we would never write, as iptables-save spells it."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    name: TableName
    chains: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """Own chain name -> its rules."""
    jumps: tuple[tuple[str, str], ...] = ()
    """(built-in chain, own chain): the first rule of the built-in chain jumps to the own chain."""


@dataclass(frozen=True, slots=True)
class Ruleset:
    family: Family
    tables: tuple[Table, ...]
    """In the order in which they are brought in: filter, nat; mangle before and raw behind, where used."""
    lists: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    """The lists of networks that rules name, by name; disjoint, sorted, and none of them everything."""

    def table(self, name: TableName) -> Table:
        return next(table for table in self.tables if table.name is name)
