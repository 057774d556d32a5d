"""What native nftables rules would do to balanced connections, found out and said with the way out. Pure.

What lbadmin accepts in FORWARD meets every other base chain at that hook all the same, whatever its priority:
one that drops is enough. Nothing is said where a chain lets balanced connections through, as with `ct status
dnat accept` before what drops.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from balancer.domain.drift import NATIVE
from balancer.domain.types import Family
from balancer.kernel.base import HostCheck
from balancer.kernel.native_listing import BaseChain, Native, NativeTable
from balancer.kernel.native_match import Packets
from balancer.kernel.native_packets import Balanced
from balancer.kernel.native_walk import DROP, MARK, STEPS_MAX, TAKE, UNTRACK, Deed, walk
from balancer.ruleset import marks

LET_THROUGH = f"ct status dnat ct mark and {marks.BALANCED | marks.REFUSE:#x} == {marks.BALANCED:#x} accept"
"""Balanced connections and no others, as our own rule in FORWARD has them."""
FIREWALLD = "firewalld"
PROGRAMS = {
    FIREWALLD: "firewalld",
    "docker-bridges": "Docker",
    "libvirt_network": "libvirt",
    "f2b-table": "fail2ban",
    "kube-proxy": "Kubernetes",
    "netavark": "CNI plugins (Podman)",
}
"""Table -> the program that makes it."""

_TRANSLATES = -100
"""NF_IP_PRI_NAT_DST: our own place. Of two chains with one priority the younger comes first."""
_TRACKS = -200
"""NF_IP_PRI_CONNTRACK; `notrack` does nothing behind it."""
_DEEDS_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one base chain does to balanced packets."""

    base: BaseChain
    kind: str
    """DROP, TAKE, UNTRACK or MARK; empty: it could not be walked through."""
    deeds: tuple[Deed, ...] = ()
    packets: tuple[str, ...] = ()
    """Whom it concerns."""
    certain: bool = False
    """It is done to all of those."""
    owned: bool = False
    """Only the program that made the table may change it."""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(deed.text for deed in self.deeds))

    @property
    def program(self) -> str | None:
        return PROGRAMS.get(self.base.table)


def find_deeds(native: Native, balanced: Mapping[Family, Balanced]) -> tuple[Finding, ...]:
    """In the order of tables and chains."""
    found: list[Finding] = []
    left = STEPS_MAX
    for table in native.tables:
        for base in table.bases:
            findings, steps = _look_at(table, base, balanced, steps_max=left)
            found += findings
            left = max(0, left - steps)
    return tuple(found)


def describe_lines(findings: Iterable[Finding]) -> tuple[str, ...]:
    """For the drift of order: `nft inet filter forward: policy drop`."""
    return tuple(f"{NATIVE}{one.base.place}: {text}" for one in findings if one.kind for text in one.texts)


def describe_checks(native: Native, findings: Iterable[Finding]) -> Iterator[HostCheck]:
    """nft-not-read, nft-drops, nft-firewalld, nft-dnat, nft-notrack, nft-mark."""
    for words in native.not_read:
        yield HostCheck(id="nft-not-read", message=words)
    for one in findings:
        if one.kind == DROP:
            yield _check_drop(one)
        elif one.kind == TAKE:
            yield HostCheck(id="nft-dnat", message=_taken(one))
        elif one.kind == UNTRACK:
            yield HostCheck(id="nft-notrack", message=_untracked(one))
        elif one.kind == MARK:
            yield HostCheck(id="nft-mark", message=_marked(one))
        else:
            words = (
                f"It cannot be told whether the nft chain {one.base.place} lets balanced connections through:"
                f" there are too many rules, or maps that cannot be read. If connections do not arrive, see"
                f" whether it helps to run: nft insert rule {one.base.place} {LET_THROUGH}"
            )
            yield HostCheck(id="nft-not-read", message=words)


def _look_at(
    table: NativeTable, base: BaseChain, balanced: Mapping[Family, Balanced], *, steps_max: int
) -> tuple[list[Finding], int]:
    steps, whole = 0, True
    done: dict[str, list[tuple[Packets, Deed]]] = {}
    for kinds, packets in _asked(base, balanced):
        outcome = walk(table, base, packets, steps_max=max(0, steps_max - steps))
        steps += outcome.steps
        whole &= outcome.whole
        for deed in outcome.deeds:
            # A drop before ours goes on protecting; only one that closes the port to everybody is in the way.
            if deed.kind in kinds and (packets.translated or deed.kind != DROP or deed.certain):
                done.setdefault(deed.kind, []).append((packets, deed))
    found = [_finding(table, base, kind, met) for kind, met in sorted(done.items())]
    if not whole and not found:
        found.append(Finding(base=base, kind=""))
    return found, steps


def _asked(base: BaseChain, balanced: Mapping[Family, Balanced]) -> Iterator[tuple[set[str], Packets]]:
    """(what would matter, to whom), by where the chain stands."""
    for family, packets in balanced.items():
        if base.family not in {"inet", "ip" if family is Family.IPV4 else "ip6"}:
            continue
        if base.hook == "prerouting" and base.priority <= _TRANSLATES:
            kinds = {TAKE} if base.kind == "nat" else {TAKE, DROP}
            kinds |= {UNTRACK} if base.priority < _TRACKS else set()
            yield from ((kinds, one) for one in packets.arriving)
            yield from (({MARK}, one) for one in packets.forwarded if one.state != "new")
        elif base.kind != "nat":
            met = {
                "input": packets.delivered,
                "output": packets.sent,
                "postrouting": (*packets.forwarded, *packets.sent),
            }
            yield from (({DROP, MARK}, one) for one in met.get(base.hook, packets.forwarded))


def _finding(table: NativeTable, base: BaseChain, kind: str, met: list[tuple[Packets, Deed]]) -> Finding:
    certain = [(packets, deed) for packets, deed in met if deed.certain and packets.state == "new"]
    concerned = certain or met
    return Finding(
        base=base,
        kind=kind,
        deeds=tuple(dict.fromkeys(deed for _, deed in met)),
        packets=tuple(dict.fromkeys(packets.words for packets, _ in concerned)),
        certain=bool(certain),
        owned="owner" in table.flags,
    )


def _check_drop(found: Finding) -> HostCheck:
    drops = "drops" if found.certain else "may drop"
    what = (
        f"The nft chain {found.base.place} {drops} {_name(found.packets)}: {_quote(found)}. It sees them"
        " whatever iptables accepts."
    )
    meant = "" if found.certain else " If that is meant, a block list for instance, leave it."
    if found.base.table == FIREWALLD:
        way_out = (
            " firewalld lets translated connections through unless it is told otherwise: set"
            " StrictForwardPorts=no in /etc/firewalld/firewalld.conf and run 'firewall-cmd --reload'. A"
            " firewalld that does not know that setting can be upgraded, or told FirewallBackend=iptables."
        )
        return HostCheck(id="nft-firewalld", message=what + meant + way_out)
    if found.owned:
        way_out = (
            " Only the program that made the table may change it: have that accept “ct status dnat” first in"
            " this chain."
        )
        return HostCheck(id="nft-drops", message=what + meant + way_out)
    way_out = (
        f" To let balanced connections through, run 'nft insert rule {found.base.place} {LET_THROUGH}', and"
        " write that rule first into the chain where the table comes from (/etc/nftables.conf, say)."
    )
    return HostCheck(id="nft-drops", message=what + meant + way_out)


def _taken(found: Finding) -> str:
    sends = "sends" if found.certain else "may send"
    before = "stands before" if found.base.priority < _TRANSLATES else "may stand before"
    return (
        f"The nft chain {found.base.place} (priority {found.base.priority}) {before} lbadmin and {sends}"
        f" {_name(found.packets)} elsewhere: {_quote(found)}. Those are not balanced. Either the service or"
        f" the rule has to give up the port; {_delete(found)}"
    )


def _untracked(found: Finding) -> str:
    return (
        f"The nft chain {found.base.place} keeps {_name(found.packets)} from connection tracking:"
        f" {_quote(found)}. What is not tracked cannot be balanced, and is refused or delivered to this"
        f" machine. Leave those packets out of the rule; {_delete(found)}"
    )


def _marked(found: Finding) -> str:
    return (
        f"The nft chain {found.base.place} overwrites the connection mark by which lbadmin knows balanced"
        f" connections: {_quote(found)}. Those are then neither let through nor masqueraded. Have the rule"
        f" spare the bits {marks.MASK:#x}, as in 'ct mark set ct mark and {marks.MASK:#x} or VALUE'."
    )


def _delete(found: Finding) -> str:
    rule = next((deed.rule for deed in found.deeds if deed.rule is not None), None)
    if rule is None:
        return ""
    chain, handle = rule
    place = f"{found.base.family} {found.base.table} {chain}"
    return f"'nft delete rule {place} handle {handle}' takes the rule out."


def _quote(found: Finding) -> str:
    shown = "; ".join(f"“{text}”" for text in found.texts[:_DEEDS_NAMED])
    more = len(found.texts) - _DEEDS_NAMED
    return f"{shown}, and {more} more" if more > 0 else shown


def _name(packets: tuple[str, ...]) -> str:
    shown = ", ".join(packets[:_DEEDS_NAMED])
    more = len(packets) - _DEEDS_NAMED
    return f"{shown} and others" if more > 0 else shown
