"""Rules of others in tables of iptables where no jump of ours has to be first: they decide in any case.

A balanced packet passes `mangle` and `security` at the same hooks as `filter`, and `raw` before everything:
what is dropped there is dropped, whatever `filter` accepts. In PREROUTING, where packets still have the
service's address, to drop some of them protects the service, and is left out.
"""

import re
from collections.abc import Iterator

from balancer.domain.drift import BESIDE
from balancer.domain.types import Family
from balancer.kernel.base import Flavour, HostCheck
from balancer.kernel.input_matches import Impossible, Packets, read_rule
from balancer.kernel.mark_checks import find_overwritten
from balancer.kernel.native_packets import Door, find_ends
from balancer.kernel.others import DROPS, may_end_in
from balancer.kernel.plan import destination_of, name_table
from balancer.ruleset import marks
from balancer.ruleset.ir import OWN_PREFIX
from balancer.ruleset.parse import SavedTable, Snapshot

_DROP = ("mangle", "FORWARD"), ("security", "FORWARD"), ("mangle", "POSTROUTING")
_CLOSE = ("raw", "PREROUTING"), ("mangle", "PREROUTING")
"""Where a policy of DROP without any rule that accepts lets nobody in."""
_UNTRACK = re.compile(r"-j (?:NOTRACK|CT --notrack)(?: |$)")
_LET_THROUGH = f"-m connmark --mark {marks.BALANCED:#x}/{marks.BALANCED | marks.REFUSE:#x} -j ACCEPT"
"""As iptables-save has it."""
_NAMED = 3


def rules_beside(held: Snapshot, *, family: Family) -> tuple[str, ...]:
    """`beside ours, mangle: -A FORWARD -j DROP`, in the order of the tables above."""
    found = (*_drops(held), *_untracked(held), *((one.table, one.text) for one in find_overwritten(held)))
    return tuple(f"{BESIDE}{name_table(table, family=family)}: {rule}" for table, rule in found)


def check_beside(held: Snapshot, *, flavour: Flavour, family: Family) -> Iterator[HostCheck]:
    """drops-beside-ours, notrack-before-ours."""
    tool = f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{flavour}"
    drops, untracked = list(_drops(held)), list(_untracked(held))
    if drops:
        places = dict.fromkeys((table, rule.split()[1]) for table, rule in drops)
        commands = ", ".join(f"'{_command(tool, held, *place)}'" for place in places)
        message = (
            f"Rules of others ({tool}) may drop balanced connections, wherever lbadmin's jumps stand:"
            f" {_quote(drops)}. If that is not meant, take them out, or let balanced connections through"
            f" before them: {commands}."
        )
        yield HostCheck(id="drops-beside-ours", message=message)
    if untracked:
        message = (
            f"Rules of others ({tool}) keep clients of services from connection tracking:"
            f" {_quote(untracked)}. What is not tracked cannot be balanced. Leave the ports of services out"
            " of those rules."
        )
        yield HostCheck(id="notrack-before-ours", message=message)


def _command(tool: str, held: Snapshot, table: str, chain: str) -> str:
    """Behind our own jump, which counts connections there and accepts nothing."""
    rules = held.table(table).chains.get(chain, ())
    behind = max((place for place, rule in enumerate(rules, start=1) if _is_own_jump(rule)), default=0)
    return f"{tool} -t {table} -I {chain} {behind + 1} {_LET_THROUGH}"


def _drops(held: Snapshot) -> Iterator[tuple[str, str]]:
    for name, chain in (*_DROP, *_CLOSE):
        table = held.table(name)
        rules = [rule for rule in table.chains.get(chain, ()) if not _is_own_jump(rule)]
        if _LET_THROUGH in rules:
            rules = rules[: rules.index(_LET_THROUGH) + 1]
        elif table.policies.get(chain) == "DROP" and not (
            (name, chain) in _CLOSE and any(may_end_in(rule, table, {"ACCEPT"}) for rule in rules)
        ):
            yield name, f"-P {chain} DROP"
        if (name, chain) in _DROP:
            yield from ((name, f"-A {chain} {rule}") for rule in rules if may_end_in(rule, table, DROPS))


def _untracked(held: Snapshot) -> Iterator[tuple[str, str]]:
    """In PREROUTING of raw and the chains behind it, where some client of a service is meant."""
    raw = held.table("raw")
    found = [(chain, rule) for chain, rule in _reached(raw, "PREROUTING") if _UNTRACK.search(rule)]
    doors = find_ends(held.table("nat").chains).doors if found else frozenset()
    for chain, rule in found:
        if any(_is_about(rule, door) for door in doors):
            yield "raw", f"-A {chain} {rule}"


def _reached(table: SavedTable, first: str) -> Iterator[tuple[str, str]]:
    seen, waiting = {first}, [first]
    while waiting:
        chain = waiting.pop()
        for rule in table.chains.get(chain, ()):
            yield chain, rule
            target = destination_of(rule) or ""
            if target in table.chains and target not in seen and not target.startswith(OWN_PREFIX):
                seen.add(target)
                waiting.append(target)


def _is_about(rule: str, door: Door) -> bool:
    at = Packets(in_interface=door.interface, ports=(door.ports,))
    try:
        found = read_rule(rule)[0]
        found.meet(at)
    except Impossible:
        return False
    return found.protocol in {None, door.protocol} and not (
        found.destination and door.address and door.address not in found.destination
    )


def _is_own_jump(rule: str) -> bool:
    return f"-j {OWN_PREFIX}" in f" {rule}"


def _quote(found: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"“{table}: {rule}”" for table, rule in found[:_NAMED])
    return shown if len(found) <= _NAMED else f"{shown}, and {len(found) - _NAMED} more"
