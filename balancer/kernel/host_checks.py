"""What on this machine may keep balanced connections from arriving, and what to do about it.

Each check has an id that never changes, so that a guide, a monitor or a colleague can refer to it. Nothing is
said about what works: a FORWARD policy of DROP, say, is no finding while lbadmin's jump comes first.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel import sysctl
from balancer.kernel.base import ConntrackUse, Flavour, HostCheck, Rejected
from balancer.kernel.beside import check_beside
from balancer.kernel.dormant import check_dormant
from balancer.kernel.flavour import parse_text, read_text
from balancer.kernel.mark_checks import check_marks
from balancer.kernel.native import NativeWatch
from balancer.kernel.native_packets import Chains, find_ends, find_ways
from balancer.kernel.others import DROPS, may_end_in
from balancer.kernel.readable import check_readable
from balancer.kernel.tools import run_tool
from balancer.ruleset import names
from balancer.ruleset.parse import SavedTable

STRICT = 1
NEARLY_FULL = 0.9
_PROC = Path("/proc/sys/net/ipv4/conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceState:
    """How the kernel treats what comes in on an interface."""

    name: str
    rp_filter: int
    """0 off, 1 strict, 2 loose; the stricter word of the interface and of all (net.ipv4.conf.*.rp_filter)."""
    route_localnet: bool
    forwarding: bool
    """Whether it forwards what comes in on it (net.ipv4.conf.*.forwarding)."""
    has_default_route: bool


def check_host(
    *, flavour: Flavour, families: Iterable[Family], use: ConntrackUse, native: NativeWatch
) -> tuple[HostCheck, ...]:
    """All there is to say of the namespace of the calling thread. Raises Rejected where it cannot be read."""
    found: list[HostCheck] = []
    nat = {}
    for family in families:
        text = read_text(flavour=flavour, family=family)
        held = parse_text(text)
        found += check_readable(text, family=family)
        found += check_dormant(family) if flavour is Flavour.NFT else ()
        found += check_forward(held.table("filter"), flavour=flavour, family=family)
        found += check_marks(held, flavour=flavour, family=family)
        found += check_beside(held, flavour=flavour, family=family)
        nat[family] = held.table("nat").chains
    found += native.check(nat)
    interfaces = read_interfaces()
    found += check_forwarding(interfaces, nat.get(Family.IPV4, {}))
    return *found, *check_rp_filter(interfaces), *check_route_localnet(interfaces), *check_use(use)


def check_forward(filter_table: SavedTable, *, flavour: Flavour, family: Family) -> Iterator[HostCheck]:
    """forward-behind-others: Docker and firewalld put their own jumps first whenever they start."""
    rules = filter_table.chains.get("FORWARD", ())
    ours = f"-j {names.FORWARD}"
    if ours not in rules:
        return
    before = [rule for rule in rules[: rules.index(ours)] if may_end_in(rule, filter_table, DROPS)]
    if not before:
        return
    tool = f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{flavour}"
    yield HostCheck(
        id="forward-behind-others",
        message=(
            f"In FORWARD ({tool}), {_count(before, 'rule')} of others may drop balanced connections before"
            f" lbadmin accepts them: {_quote(before)}. If they are not meant to come first, press “Put ours"
            f" first” on the node's page, or run '{tool} -D FORWARD {ours}': where drift is put back at once,"
            " the jump is first again within half a minute."
        ),
    )


def check_rp_filter(interfaces: tuple[InterfaceState, ...]) -> Iterator[HostCheck]:
    """rp-filter-strict: the kernel drops what its own answer would not leave by, before any rule sees it."""
    elsewhere = [i.name for i in interfaces if i.has_default_route]
    for interface in interfaces:
        if interface.rp_filter != STRICT or interface.has_default_route:
            continue
        way = f"leave by {elsewhere[0]}" if elsewhere else "not leave at all"
        yield HostCheck(
            id="rp-filter-strict",
            message=(
                f"{interface.name} checks strictly where packets come from (rp_filter 1), and answers to"
                f" clients beyond its own networks would {way}: the kernel drops those clients before lbadmin"
                f" sees them. If a service on {interface.name} has such clients, set"
                f" net.ipv4.conf.{interface.name}.rp_filter=2 (and net.ipv4.conf.all.rp_filter to 0 or 2),"
                " or give it the route to them."
            ),
        )


def check_forwarding(interfaces: tuple[InterfaceState, ...], nat: Chains) -> Iterator[HostCheck]:
    """forwarding-off: the switch of one interface, where that of the machine is on."""
    off = {interface.name for interface in interfaces if not interface.forwarding}
    if not off or not sysctl.is_forwarding(family=Family.IPV4):
        return
    ends = find_ends(nat)
    used = {name for name, _ in find_ways({one.address for one in ends.backends}).values()}
    for name in sorted(off & (used | (ends.interfaces or set()))):
        yield HostCheck(
            id="forwarding-off",
            message=(
                f"{name} forwards nothing of what comes in on it (net.ipv4.conf.{name}.forwarding 0), and"
                f" balanced packets come in there. Set net.ipv4.conf.{name}.forwarding=1; where"
                " systemd-networkd looks after the interface, IPv4Forwarding=yes (IPForward=yes) in its file."
            ),
        )


def check_route_localnet(interfaces: tuple[InterfaceState, ...]) -> Iterator[HostCheck]:
    """route-localnet: packets to 127.0.0.0/8 from outside are taken for the machine's own."""
    for interface in interfaces:
        if interface.route_localnet:
            yield HostCheck(
                id="route-localnet",
                message=(
                    f"{interface.name} takes packets from outside to 127.0.0.0/8 (route_localnet 1), and so"
                    f" does every service on {interface.name} that has no address of its own. Unless another"
                    f" program needs it, set net.ipv4.conf.{interface.name}.route_localnet=0; or give the"
                    " services their addresses."
                ),
            )


def check_use(use: ConntrackUse) -> Iterator[HostCheck]:
    """conntrack-full, ports-exhausted: new connections are dropped when either runs out."""
    if use.limit and use.entries >= use.limit * NEARLY_FULL:
        yield HostCheck(
            id="conntrack-full",
            message=(
                f"The kernel remembers {use.entries:,} of at most {use.limit:,} connections; when that is"
                " full it drops new ones. Raise net.netfilter.nf_conntrack_max (and nf_conntrack_buckets to"
                " a quarter of it)."
            ),
        )
    for ports in use.busiest:
        if ports.used >= ports.available * NEARLY_FULL:
            yield HostCheck(
                id="ports-exhausted",
                message=(
                    f"{ports.used:,} of {ports.available:,} source ports from {ports.source} to"
                    f" {ports.backend} ({ports.protocol}) are in use; when none is left, new connections"
                    " to that backend are dropped. Give the service a pool of source addresses (source NAT"
                    " mode snat), more backends, or source NAT none."
                ),
            )


def read_interfaces() -> tuple[InterfaceState, ...]:
    """Of the namespace of the calling thread, loopback left out; sorted by name. Raises Rejected."""
    done = run_tool(["ip", "-json", "-4", "route", "show", "default"])
    if done.code != 0:
        raise Rejected(f"Reading the node's routes failed: {done.errors.strip()}")
    ways = {str(route["dev"]) for route in json.loads(done.output or "[]") if "dev" in route}
    names_here = sorted(path.name for path in _PROC.iterdir())
    return tuple(
        InterfaceState(
            name=name,
            rp_filter=max(_setting(name, "rp_filter"), _setting("all", "rp_filter")),
            route_localnet=bool(_setting(name, "route_localnet") or _setting("all", "route_localnet")),
            forwarding=bool(_setting(name, "forwarding")),
            has_default_route=name in ways,
        )
        for name in names_here
        if name not in {"all", "default", "lo"}
    )


def read_settings() -> Iterator[str]:
    """What `read_interfaces` reads without asking for routes, in any words; of every interface."""
    for path in sorted(_PROC.iterdir()):
        values = (_setting(path.name, key) for key in ("rp_filter", "route_localnet", "forwarding"))
        yield " ".join((path.name, *map(str, values)))


def _setting(interface: str, key: str) -> int:
    try:
        return int((_PROC / interface / key).read_text())
    except (OSError, ValueError):  # an interface may go between two reads
        return 0


def _quote(rules: list[str]) -> str:
    shown = "; ".join(f"“{rule}”" for rule in rules[:3])
    return shown if len(rules) <= 3 else f"{shown}, and {len(rules) - 3} more"


def _count(rules: list[str], noun: str) -> str:
    return f"{len(rules)} {noun}" if len(rules) == 1 else f"{len(rules)} {noun}s"
