"""Rules of others that write over our bits of the connection mark, which tell what is balanced. Pure.

Some programs keep a packet's mark in the connection for policy routing or shaping (`CONNMARK --save-mark`),
often with a mask of all bits.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from balancer.domain.types import Family
from balancer.kernel.base import Flavour, HostCheck
from balancer.ruleset.ir import OWN_PREFIX
from balancer.ruleset.parse import SavedTable, Snapshot

_WAY = ("PREROUTING", "FORWARD", "POSTROUTING")
"""The built-in chains that a balanced packet passes."""
_ALL = 0xFFFFFFFF
_WRITES = re.compile(r"-j CONNMARK --(?:set-x?mark \S+/|save-mark --nfmask \S+ --ctmask )(0x[0-9a-f]+)")
_OWN = re.compile(r"-j CONNMARK --set-xmark \S+/(0x[0-9a-f]+)")
_MARKED = re.compile(r"(?<!! )--mark (0x[0-9a-f]+)")
"""Only for packets that somebody marked, which ours are not."""
_NEW = re.compile(r"(?<!! )--ctstate NEW(?: |$)")
_LEADS = re.compile(r"-[jg] (\S+)")


@dataclass(frozen=True, slots=True)
class Overwritten:
    table: str
    text: str
    """`-A FORWARD -j CONNMARK ...`"""
    bits: int
    """Of ours."""
    free: int
    """The bits that are not ours."""


def check_marks(snapshot: Snapshot, *, flavour: Flavour, family: Family) -> Iterator[HostCheck]:
    """mark-overwritten: told once for each rule."""
    tool = f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{flavour}"
    for one in find_overwritten(snapshot):
        yield HostCheck(
            id="mark-overwritten",
            message=(
                f"A rule of others ({tool} -t {one.table}: “{one.text}”) writes over bits"
                f" {one.bits:#010x} of the connection mark, by which lbadmin knows its balanced"
                " connections: they would no longer be let through FORWARD, masqueraded or cut as"
                f" they should. Give that rule a mask without these bits, such as {one.free:#x}, or"
                " let it match only what it is for."
            ),
        )


def find_overwritten(snapshot: Snapshot) -> tuple[Overwritten, ...]:
    """Each rule once, by table and in the order in which packets meet them."""
    ours = _bits_in_use(snapshot)
    found = {}
    for table, held in sorted(snapshot.tables.items()) if ours else ():
        for builtin in _WAY:
            for chain, rule in _met(held, builtin):
                # Of a new connection ours are written behind PREROUTING of mangle.
                if bits := 0 if builtin == "PREROUTING" and _NEW.search(rule) else _written(rule) & ours:
                    found[table, chain, rule] = bits
    return tuple(
        Overwritten(table, f"-A {chain} {rule}", bits, _ALL & ~ours)
        for (table, chain, rule), bits in found.items()
    )


def _bits_in_use(snapshot: Snapshot) -> int:
    """Of our own rules in nat: those of pools are not always among them."""
    bits = 0
    for chain, rules in snapshot.table("nat").chains.items():
        if chain.startswith(OWN_PREFIX):
            for found in map(_OWN.search, rules):
                bits |= int(found[1], 16) if found else 0
    return bits


def _met(table: SavedTable, chain: str, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Rules of others that unmarked packets may meet, with their chains."""
    for rule in table.chains.get(chain, ()):
        marked = _MARKED.search(rule)
        if marked and int(marked[1], 16):
            continue
        yield chain, rule
        leads = _LEADS.search(rule)
        if leads and leads[1] not in seen and not leads[1].startswith(OWN_PREFIX):
            yield from _met(table, leads[1], seen | {leads[1]})


def _written(rule: str) -> int:
    found = _WRITES.search(rule)
    return int(found[1], 16) if found else 0
