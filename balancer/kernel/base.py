"""The port: what the rest of lbadmin asks of a kernel, and what it gets back.

Nothing here knows Django, Celery or iptables syntax. `NodeKernel` is the real implementation, `FakeKernel`
the one in memory; both pass the same contract suite.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from balancer.domain.observation import Observation
from balancer.domain.types import Document, Service
from balancer.ruleset.ir import Ruleset


class Flavour(StrEnum):
    """Which of the kernel's two packet filters the `iptables` command drives."""

    LEGACY = "legacy"
    NFT = "nft"

    @property
    def other(self) -> "Flavour":
        return Flavour.NFT if self is Flavour.LEGACY else Flavour.LEGACY


class DriverName(StrEnum):
    PYTHON_IPTABLES = "python-iptables"
    IPTABLES_RESTORE = "iptables-restore"


class KernelError(Exception):
    """Base of everything a kernel operation raises; the message is a sentence for people."""


class Rejected(KernelError):
    """The kernel or its tools refused; the kernel holds what it held before."""


class Busy(KernelError):
    """Somebody else held a lock for too long; nothing was written, trying again is right."""


class OutcomeUnknown(KernelError):
    """Something was written and could not be verified or put back; compare before trusting the node."""


class ForeignNamespace(KernelError):
    """The process stands in the machine's own network namespace and was not told to write there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one sync or removal did. Every collection is sorted or in the order in which it happened."""

    changed: bool
    flavour: Flavour
    driver: DriverName
    tables_committed: tuple[str, ...] = ()
    chains_written: tuple[str, ...] = ()
    """`nat LB-S-web`: chains that were created or rewritten."""
    chains_deleted: tuple[str, ...] = ()
    jumps_added: tuple[str, ...] = ()
    """`nat PREROUTING LB-PREROUTING`."""
    connections_removed: int = 0
    duration_ms: int = 0
    ruleset_digest: str = ""
    """SHA-256 of the canonical text of the ruleset that the kernel now carries."""
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the kernel's own chains differ from a ruleset: `- ` it has too much, `+ ` too little."""

    in_sync: bool
    lines: tuple[str, ...] = ()
    """`+ nat: -A LB-S-web ...`; a setting that is missing is `+ sysctl: net.ipv4.ip_forward=1`."""
    before: tuple[str, ...] = ()
    """Rules of others that come before our jumps and may decide about balanced packets, `nat: -A PREROUTING
    ...`. They are no difference: nobody moves our jumps unless that is asked for."""
    programs: tuple[str, ...] = ()
    """Where there is something to say: programs known to change firewalls that seem to be at work here."""
    machine: str = ""
    """Another one where something has changed that the checks of the machine rest on (`NodeFacts.checks`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    name: str
    addresses: tuple[str, ...]
    """`10.0.0.1/24`, as `ip address` prints them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCheck:
    """Something about the machine that may keep balanced connections from arriving."""

    id: str
    """Stable, such as `rp-filter-strict`: guides and monitors refer to it."""
    message: str
    """What will happen, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortUse:
    """Connections that share what can only be told apart by the source port."""

    protocol: str
    source: str
    """The address that backends see."""
    backend: str
    used: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackUse:
    """Counters run since the network namespace began; zeros where the kernel tells nothing."""

    entries: int = 0
    limit: int = 0
    insert_failed: int = 0
    """Entries that could not be added, most of them because two packets began one connection at once."""
    dropped: int = 0
    """Packets dropped because there was no room or no port."""
    early_dropped: int = 0
    """Entries that were thrown out to make room."""
    busiest: tuple[PortUse, ...] = ()
    """The fullest first; empty while no backend's ports can be scarce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What the node is, for its page in the console."""

    flavour: Flavour
    driver: DriverName
    driver_reason: str
    """Why this driver, in one sentence."""
    kernel: str
    iptables_version: str
    interfaces: tuple[Interface, ...]
    forwarding: bool
    forwarding_persisted: bool
    forwarding_ipv6: bool | None = None
    """None where this machine has no IPv6."""
    forwarding_ipv6_persisted: bool = False
    cannot: tuple[str, ...] = ()
    """What its kernel was found to lack when a document needed it: `SCTP for iptables (module xt_sctp)`."""
    checks: tuple[HostCheck, ...] = ()
    conntrack: ConntrackUse = field(default_factory=ConntrackUse)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(check.message for check in self.checks)

    def to_data(self) -> dict[str, object]:
        """Plain JSON-able data."""
        return {**asdict(self), "flavour": self.flavour.value, "driver": self.driver.value}


Loads = Mapping[str, Mapping[str, int]]
"""Service -> endpoint of a backend, as the document has it -> connections."""

Permit = Callable[[], None]
"""Asked once nobody else can write and before anything is written; it raises where nothing may be."""


class Kernel(Protocol):
    """One balancer machine's packet filter. Every method may raise `KernelError`."""

    def sync(
        self,
        *,
        ruleset: Ruleset,
        document: Document,
        permit: Permit | None = None,
        jumps_first: bool = False,
    ) -> Receipt:
        """Makes the own chains equal to `ruleset`, whole or not at all, and verifies.

        Nothing to do writes nothing; so does a ruleset of IPv6 without services where nothing of ours is held
        (`idle`). `document` is what `ruleset` was compiled from. What `permit` raises is
        passed on, and the kernel holds what it held. `jumps_first` moves our jumps before others' rules.
        """

    def compare(self, *, ruleset: Ruleset) -> Difference:
        """Reads only. Cheap where `ruleset` is the value that was found to be carried the last time."""

    def facts(self) -> NodeFacts:
        """Reads only."""

    def observe(self) -> Observation:
        """What the machine does at this moment. Reads only; takes the longer the more it balances."""

    def count_loads(self, *, services: Sequence[Service]) -> Loads:
        """Established connections of each backend of these services. Reads only; a backend may be missing."""

    def count_open(self, *, services: Sequence[Service]) -> Loads:
        """Connections, flows and associations of each backend of these services that are not over. Reads
        only; a backend without any may be missing."""

    def remove(self) -> Receipt:
        """Takes every own chain and jump out, of both families, and the sets of clients with them."""

    def count_clients(self) -> Mapping[str, int]:
        """Set of clients (`ruleset.sets`) -> how many it remembers now. Reads only."""

    def forget_clients(self, *, service: Service, endpoint: str | None = None) -> int:
        """Empties the sets of a service, or that of the backend with this endpoint; how many clients went.

        Each of them is balanced anew with its next connection; the connections that it has live on. Where the
        kernel has no such set there is nobody to forget.
        """

    def make_room(self) -> int:
        """Puts larger sets of clients in the place of crowded ones, under the rules and with all clients; how
        many. Writes nothing where there is none: packets never make a set larger."""


def is_init_namespace(*, proc: Path = Path("/proc")) -> bool:
    """Whether the calling thread stands in the namespace of PID 1. Raises OSError if that cannot be told."""
    # A thread may stand in another namespace than its process, and children inherit the thread's.
    try:
        ours, init = os.stat(proc / "thread-self/ns/net"), os.stat(proc / "1/ns/net")
    except PermissionError:
        # The links need ptrace rights over PID 1, which containers often take even from root. The files below
        # net/ need none, and each namespace has inodes of its own for them (fs/proc/generic.c, low_ino).
        ours, init = os.stat(proc / "thread-self/net/dev"), os.stat(proc / "1/net/dev")
    return (ours.st_dev, ours.st_ino) == (init.st_dev, init.st_ino)


def ensure_own_namespace(*, this_host: bool, proc: Path = Path("/proc")) -> None:
    """Refuses to go on in the network namespace of PID 1, unless the caller says that it means this host.

    What cannot be told is refused as well: an unreadable link of PID 1 is no licence to write.
    """
    if this_host:
        return
    try:
        is_init = is_init_namespace(proc=proc)
    except OSError as error:
        raise ForeignNamespace(
            "Refusing to write: cannot tell whether this is the machine's own network namespace, because the"
            f" namespace of PID 1 cannot be read ({error.strerror}). Run as root, or pass --this-host if this"
            " machine is meant."
        ) from error
    if is_init:
        raise ForeignNamespace(
            "Refusing to write in the network namespace of PID 1, which is this machine's own."
            " Pass --this-host if this machine is meant."
        )
