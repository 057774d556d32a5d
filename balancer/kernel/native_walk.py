"""What native nftables rules may do to packets that are alike: a walk through the chains of a table. Pure.

The walk keeps account of whether packets are still under way: all of them, some perhaps, or none. A rule is
named only where packets may still meet it: nothing is said of what stands behind `ct status dnat accept`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from balancer.kernel.native_listing import BaseChain, NativeRule, NativeTable, Statement
from balancer.kernel.native_match import Met, Packets, compare, meets, overwrites

STEPS_MAX = 100_000
"""Rules met in one look, on all walks together; a chain that is reached on many ways is met on each."""
DEPTH_MAX = 16
"""NFT_JUMP_STACK_SIZE, include/net/netfilter/nf_tables.h."""
DROP, TAKE, UNTRACK, MARK = "drop", "take", "untrack", "mark"
_VERDICTS = {"drop": DROP, "reject": DROP, "dnat": TAKE, "redirect": TAKE, "tproxy": TAKE}
_ENDS = {"accept", "snat", "masquerade", "queue", *_VERDICTS}
_HARMLESS = {"counter", "log", "mangle", "flow", "ct helper", "ct timeout", "last", "comment"}
"""Statements that every packet passes, on to the next one of the rule."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that is done to packets."""

    kind: str
    """DROP, TAKE (another destination), UNTRACK or MARK (another connection mark)."""
    text: str
    """The rule as nft spells it, or `policy drop`."""
    certain: bool
    """To all of them."""
    rule: tuple[str, int] | None = None
    """Chain and handle, by which `nft delete rule` knows it; None for the policy of the base chain."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of those that met a rule."""

    left: Met = Met.NEVER
    """They go on to the next one."""
    returned: Met = Met.NEVER
    """They leave the chain and go on behind it."""
    ended: bool = False
    """Some of them go no further."""


@dataclass(frozen=True, slots=True)
class Outcome:
    deeds: tuple[Deed, ...] = ()
    whole: bool = True
    """False where there were too many rules to walk through, or a map of jumps that could not be read."""
    steps: int = 0


def walk(table: NativeTable, base: BaseChain, packets: Packets, *, steps_max: int = STEPS_MAX) -> Outcome:
    """What is done to `packets` from where they come in at `base`."""
    going = _Walk(table, packets, steps_max)
    left, _ = going.follow(base.name, Met.ALWAYS, depth=0)
    whole = going.steps <= steps_max and not going.blind
    if base.policy == "drop" and left is not Met.NEVER:
        going.deeds.append(Deed(DROP, "policy drop", left is Met.ALWAYS and whole))
    return Outcome(tuple(going.deeds), whole, going.steps)


@dataclass(slots=True)
class _Walk:
    table: NativeTable
    packets: Packets
    steps_max: int
    deeds: list[Deed] = field(default_factory=list)
    steps: int = 0
    blind: bool = False
    """A map that leads on could not be read."""

    def follow(self, chain: str, here: Met, *, depth: int) -> tuple[Met, bool]:
        """Walks a chain with those that are `here`: which come out behind it, and whether any did not."""
        entered, returned, ended = here, Met.NEVER, False
        for rule in self.table.rules.get(chain, ()):
            if here is Met.NEVER or self.steps > self.steps_max:
                break
            self.steps += 1
            for met, verdict, target in self._branches(rule):
                done = self._act(rule, verdict, target, min(met, here), depth=depth)
                ended |= done.ended
                returned = max(returned, done.returned)
                if done.ended or done.returned is not Met.NEVER:
                    here = done.left if met is Met.ALWAYS else Met.PERHAPS
                if here is Met.NEVER:
                    break
        # Where none has ended all of them come out, by the end of the chain or by RETURN.
        return (max(here, returned) if ended else entered), ended

    def _act(self, rule: NativeRule, verdict: str, target: str, met: Met, *, depth: int) -> "_Done":
        if verdict == "return":
            return _Done(returned=met)
        if verdict in {"jump", "goto"}:
            out, ended = self.follow(target, met, depth=depth + 1) if depth < DEPTH_MAX else (met, False)
            return _Done(returned=out, ended=ended) if verdict == "goto" else _Done(left=out, ended=ended)
        if verdict in {"notrack", "mangle"}:
            self.deeds.append(_deed(UNTRACK if verdict == "notrack" else MARK, rule, met))
            return _Done(left=met)
        if verdict in _VERDICTS:
            self.deeds.append(_deed(_VERDICTS[verdict], rule, met))
        return _Done(ended=True)

    def _branches(self, rule: NativeRule) -> Iterator[tuple[Met, str, str]]:
        """(who meets it, verdict, chain that it leads to), in order, for each verdict that a rule has."""
        met = Met.ALWAYS
        for statement in rule.statements:
            kind, value = next(iter(statement.items()), ("", None))
            if kind == "match":
                met = min(met, meets(self.packets, value, elements=self.table.elements))
                if met is Met.NEVER:
                    return
            elif kind in {"jump", "goto"}:
                yield met, kind, str(value.get("target"))
            elif kind == "vmap":
                yield from self._of_map(value, met)
            elif kind in _ENDS or kind in {"return", "notrack"} or (kind == "mangle" and overwrites(value)):
                yield met, kind, ""
            elif kind not in _HARMLESS:
                met = min(met, Met.PERHAPS)

    def _of_map(self, value: Any, met: Met) -> Iterator[tuple[Met, str, str]]:
        """Of a verdict map: its elements one after the other, of which a packet meets one at most."""
        data = value.get("data")
        if isinstance(data, str):
            found = self.table.elements.get(data.removeprefix("@"))
            if found is None:
                self.blind = True
                return
            data = {"set": found}
        for key, verdict in _pairs(data):
            own = compare(self.packets, value.get("key"), key, elements=self.table.elements)
            statement: Statement = verdict if isinstance(verdict, dict) else {str(verdict): None}
            kind, leads = next(iter(statement.items()))
            if own is not Met.NEVER and kind != "continue":
                yield min(met, own), kind, str(leads.get("target")) if isinstance(leads, dict) else ""


def _deed(kind: str, rule: NativeRule, met: Met) -> Deed:
    return Deed(kind, rule.text, met is Met.ALWAYS, (rule.chain, rule.handle))


def _pairs(data: Any) -> Iterator[tuple[Any, Any]]:
    for one in data.get("set", ()) if isinstance(data, dict) else ():
        if isinstance(one, list | tuple) and len(one) == 2:
            key, verdict = one
            yield (key["elem"]["val"] if isinstance(key, dict) and "elem" in key else key), verdict
