"""Reconcile: from what the kernel holds and what it should hold, the fewest edits that lead there.

Pure. A chain that is right already is not in the plan, and a table without edits is not in it at all, so
that "nothing to do" commits nothing: on iptables-legacy any commit restarts every round-robin counter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from balancer.domain.types import Document, Family
from balancer.ruleset.ir import OWN_PREFIX, Ruleset, Unknown
from balancer.ruleset.parse import SavedTable, Snapshot, parse_rule
from balancer.ruleset.render import render_rule
from balancer.ruleset.turns import without_phase

_TABLES = ("mangle", "filter", "nat")
"""In the order in which they are brought in."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

Rules = tuple[str, ...]
"""Rules of one chain, each as the text behind `-A <chain> `."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedTable:
    """What our part of a table should be."""

    chains: Mapping[str, Rules] = field(default_factory=dict)
    jumps: tuple[tuple[str, str], ...] = ()


Wanted = Mapping[str, WantedTable]
"""Table name -> what we want of it, in the order in which tables are to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpEdit:
    """First takes `drop` rules `-A builtin -j chain` out, then puts one in at position `insert_at`.

    Rules are dropped by description and never by number: if somebody else edits the chain meanwhile, ours
    is what is dropped, and an insertion lands at worst one place off.
    """

    builtin: str
    chain: str
    drop: int = 0
    insert_at: int | None = None
    """Counted from 1; None puts none in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """The edits of one table, for one commit."""

    table: str
    create: tuple[str, ...] = ()
    """Those of `write` that are not there yet."""
    write: Mapping[str, Rules] = field(default_factory=dict)
    """Chains to create, or to empty, and to fill with these rules."""
    delete: tuple[str, ...] = ()
    jumps: tuple[JumpEdit, ...] = ()
    prepend: Mapping[str, Rules] = field(default_factory=dict)
    """Chains whose rules stay, counters and all, behind these new ones (`counted`)."""
    cut: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Chain -> the rules with numbers from the first to the second, which go."""

    @property
    def is_empty(self) -> bool:
        return not (self.write or self.delete or self.jumps or self.prepend or self.cut)

    @property
    def rule_count(self) -> int:
        return sum(map(len, self.write.values()))


def want_ruleset(ruleset: Ruleset) -> Wanted:
    """Nothing of ours in a table that the ruleset does not have: limits that have gone leave none behind."""
    return dict.fromkeys(_TABLES, WantedTable()) | {
        table.name.value: WantedTable(
            chains={name: tuple(map(render_rule, rules)) for name, rules in table.chains.items()},
            jumps=table.jumps,
        )
        for table in ruleset.tables
    }


def order_tables(wanted: Wanted, *, document: Document) -> Wanted:
    """Filter accepts before nat redirects; the other way round when nothing is redirected any more."""
    if any(service.enabled for service in document.services):
        return wanted
    return dict(reversed(list(wanted.items())))


def want_nothing() -> Wanted:
    """For removal: nat first, so that nothing is redirected to where filter no longer accepts it."""
    return dict.fromkeys(reversed(_TABLES), WantedTable())


def want_own_part(snapshot: Snapshot) -> Wanted:
    """Our part of what the kernel holds, so that it can be put back, in the order of a removal."""
    tables = {name: snapshot.table(name) for name in want_nothing()}
    return {
        name: WantedTable(
            chains={chain: rules for chain, rules in table.chains.items() if chain.startswith(OWN_PREFIX)},
            jumps=tuple(sorted(_jumps(table))),
        )
        for name, table in tables.items()
    }


def make_plan(
    *, snapshot: Snapshot, wanted: Wanted, family: Family, jumps_first: bool = False
) -> tuple[TablePlan, ...]:
    """One plan for each table that needs a commit, in the order of `wanted`.

    A jump that is there stays where it is, unless `jumps_first`.
    """
    plans = (
        _plan_table(name, snapshot.table(name), want, family, jumps_first=jumps_first)
        for name, want in wanted.items()
    )
    return tuple(plan for plan in plans if not plan.is_empty)


def find_foreign_references(*, snapshot: Snapshot, plans: tuple[TablePlan, ...]) -> tuple[str, ...]:
    """Rules of others that point to a chain that a plan deletes; the kernel would refuse the deletion."""
    found = []
    for plan in plans:
        going = set(plan.delete)
        for chain, rules in snapshot.table(plan.table).chains.items():
            if chain.startswith(OWN_PREFIX):
                continue
            found += [
                f"{plan.table}: -A {chain} {rule}"
                for rule in rules
                if destination_of(rule) in going
                and not _is_plain_jump(snapshot.table(plan.table), chain, rule)
            ]
    return tuple(found)


def describe_difference(*, snapshot: Snapshot, wanted: Wanted, family: Family) -> tuple[str, ...]:
    """`+ nat: -A LB-S-web ...` for what is missing, `- ...` for what is there and should not be.

    Of IPv6: `+ ipv6 nat: ...`.
    """
    lines: list[str] = []
    for plan in make_plan(snapshot=snapshot, wanted=wanted, family=family):
        table, name = snapshot.table(plan.table), name_table(plan.table, family=family)
        for jump in plan.jumps:
            lines += _describe_jump(name, jump)
        for chain, rules in plan.write.items():
            if chain in plan.create:
                lines.append(f"+ {name}: -N {chain}")
            lines += _describe_chain(name, chain, table.chains.get(chain, ()), rules)
        for chain in plan.delete:
            lines += _describe_chain(name, chain, table.chains[chain], ())
            lines.append(f"- {name}: -N {chain}")
    return tuple(lines)


def name_table(table: str, *, family: Family) -> str:
    """`nat`, or `ipv6 nat`."""
    return table if family == Family.IPV4 else f"{family} {table}"


def destination_of(rule: str) -> str | None:
    """The chain or the target that a rule leads to."""
    # A quoted text (a comment, a log prefix) may hold anything, -j and our names included.
    words = _QUOTED.sub('""', rule).split()
    places = [i for i, word in enumerate(words[:-1]) if word in {"-j", "-g"}]
    return words[places[-1] + 1] if places else None


def _plan_table(
    name: str, have: SavedTable, want: WantedTable, family: Family, *, jumps_first: bool
) -> TablePlan:
    own = {chain for chain in have.chains if chain.startswith(OWN_PREFIX)}
    write = {
        chain: rules
        for chain, rules in want.chains.items()
        if chain not in own or not _are_same(have.chains[chain], rules, family)
    }
    return TablePlan(
        table=name,
        create=tuple(sorted(set(write) - own)),
        write=write,
        delete=tuple(sorted(own - set(want.chains))),
        jumps=_plan_jumps(have, want, first=jumps_first),
    )


def _are_same(have: Rules, want: Rules, family: Family) -> bool:
    """Whether they do the same. A round robin may be at any turn: see `turns`."""
    if have == want:
        return True
    if len(have) != len(want):
        return False
    have, want = tuple(map(without_phase, have)), tuple(map(without_phase, want))
    if have == want:
        return True
    parsed = [
        (parse_rule(h, family=family), parse_rule(w, family=family)) for h, w in zip(have, want, strict=True)
    ]
    return all(h == w and not isinstance(h, Unknown) for h, w in parsed)


def _plan_jumps(have: SavedTable, want: WantedTable, *, first: bool) -> tuple[JumpEdit, ...]:
    edits = []
    for builtin, chain in sorted({*_jumps(have), *want.jumps}):
        places = [i for i, rule in enumerate(have.chains.get(builtin, ()), start=1) if rule == f"-j {chain}"]
        if (builtin, chain) not in want.jumps:
            edits.append(JumpEdit(builtin=builtin, chain=chain, drop=len(places)))
        elif not places:
            edits.append(JumpEdit(builtin=builtin, chain=chain, insert_at=1))
        elif first and places != [1]:
            edits.append(JumpEdit(builtin=builtin, chain=chain, drop=len(places), insert_at=1))
        elif len(places) > 1:
            edits.append(JumpEdit(builtin=builtin, chain=chain, drop=len(places), insert_at=places[0]))
    return tuple(edits)


def _jumps(table: SavedTable) -> set[tuple[str, str]]:
    """The unconditional jumps from built-in chains to ours."""
    return {(builtin, chain) for builtin in table.policies for chain in table.jumps_to_own(builtin)}


def _is_plain_jump(table: SavedTable, chain: str, rule: str) -> bool:
    return chain in table.policies and rule == f"-j {destination_of(rule)}"


def _describe_jump(table: str, jump: JumpEdit) -> list[str]:
    line = f"{table}: -A {jump.builtin} -j {jump.chain}"
    kept = 0 if jump.insert_at is None else 1
    return [f"- {line}"] * (jump.drop - kept) if jump.drop else [f"+ {line}"]


def _describe_chain(table: str, chain: str, have: Rules, want: Rules) -> list[str]:
    lines = []
    same = SequenceMatcher(a=list(map(without_phase, have)), b=list(map(without_phase, want)), autojunk=False)
    for _, h1, h2, w1, w2 in (code for code in same.get_opcodes() if code[0] != "equal"):
        lines += [f"- {table}: -A {chain} {rule}" for rule in have[h1:h2]]
        lines += [f"+ {table}: -A {chain} {rule}" for rule in want[w1:w2]]
    return lines
