"""The ipsets that hold lists of networks (balancer/ruleset/networks.py).

A list is named by what is in it, so that another list is another set: it is there, whole, before the rules
that name it are brought in, the commit of these is what puts one in the place of the other, and the old set
goes afterwards. A set that does not hold what its name says was changed by somebody; it is put right.
"""

from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network

from balancer.domain.limits import MAX_NETWORKS
from balancer.domain.types import Family, Network
from balancer.kernel.base import KernelError, Rejected
from balancer.kernel.ipset import FAMILIES, RELEASE_SECONDS, Found, carry_out, destroy, read_headers
from balancer.kernel.tools import find_tool, run_tool
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.networks import ROOM, ROOM_FACTOR, family_of_list

_WHAT = "lists of networks"
_ENTRIES_MAX = ROOM_FACTOR * MAX_NETWORKS + ROOM
_SHOWN = 20


@dataclass(slots=True)
class NetworkSets:
    """What was done about the lists of a ruleset. Whoever commits its rules says so in `committed`."""

    committed: bool = True
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@contextmanager
def network_sets_for(ruleset: Ruleset) -> Iterator[NetworkSets]:
    """The lists that the ruleset names are there inside, and hold what they should.

    Afterwards those of its family that it does not name are destroyed; where the inside raises, those that
    were made for it. Raises Rejected before anything is written where a list cannot be had; what goes wrong
    afterwards is a warning, since the rules are in.
    """
    sets = NetworkSets()
    if find_tool("ipset") is None:
        if ruleset.lists:
            raise Rejected(
                "Allow and deny lists need the program ipset, which is not installed on this node. Install"
                " the package ipset, or take the lists out. Nothing was changed."
            )
        yield sets
        return
    try:
        there = _there(ruleset.family)
    except KernelError:
        if ruleset.lists:
            raise
        there = {}
    made = ruleset.lists.keys() - there.keys()
    try:
        sets.steps += _bring_in(ruleset, there, made)
        yield sets
    except BaseException:
        _take_back(made)
        raise
    _let_go(sets, there.keys() - ruleset.lists.keys())


def compare_lists(ruleset: Ruleset) -> tuple[str, ...]:
    """`+ list LB-4.net-…: 10.0.0.0/8` for what is missing, `- …` for what is there and should not be.

    Reads only, and nothing where the ruleset has no lists. Raises KernelError.
    """
    if not ruleset.lists:
        return ()
    if find_tool("ipset") is None:
        return tuple(f"+ list {name}" for name in ruleset.lists)
    return describe_lists(ruleset, held=_read(ruleset.lists.keys() & _there(ruleset.family).keys()))


def describe_lists(ruleset: Ruleset, *, held: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """The same from what the sets hold. Pure."""
    lines: list[str] = []
    for name, wanted in ruleset.lists.items():
        if name not in held:
            lines.append(f"+ list {name}")
            continue
        want = set(map(str, wanted))
        lines += _few([f"- list {name}: {entry}" for entry in sorted(held[name] - want)])
        lines += _few([f"+ list {name}: {entry}" for entry in sorted(want - held[name])])
    return tuple(lines)


def _there(family: Family) -> dict[str, Found]:
    return {one.name: one for one in read_headers(lambda name: family_of_list(name) is family)}


def _bring_in(ruleset: Ruleset, there: Mapping[str, Found], made: Collection[str]) -> tuple[str, ...]:
    """Makes what is missing, and puts right what somebody changed."""
    _refuse_others(there, ruleset)
    carry_out(
        (
            line
            for name in sorted(made)
            for line in _make(name, family=ruleset.family, networks=ruleset.lists[name])
        ),
        what=_WHAT,
    )
    held = _read(ruleset.lists.keys() & there.keys())
    wrong = [name for name, entries in held.items() if entries != set(map(str, ruleset.lists[name]))]
    for name in sorted(wrong):
        # Under the rules that use it, and at once: in between it would let in whom it should not.
        spare = f"{name[: len('LB-4.net-')]}{'0' * 20}"
        carry_out(
            (
                *(line for line in _make(spare, family=ruleset.family, networks=ruleset.lists[name])),
                f"swap {spare} {name}\n",
                f"destroy {spare}\n",
            ),
            what=_WHAT,
        )
    return describe_made(len(made), mended=len(wrong))


def describe_made(made: int, *, mended: int) -> tuple[str, ...]:
    steps = (f"Made {_count(made, 'list')} of networks.",) if made else ()
    if mended:
        steps += (f"Put {_count(mended, 'list')} of networks right that somebody had changed.",)
    return steps


def _refuse_others(there: Mapping[str, Found], ruleset: Ruleset) -> None:
    for name in ruleset.lists.keys() & there.keys():
        if there[name].kind != "hash:net":
            raise Rejected(
                f"There is a set {name} already, which lbadmin did not make: it is of type"
                f" {there[name].kind}, not hash:net. Destroy it (ipset destroy {name}), with the rules that"
                " use it. Nothing was changed."
            )


def _make(name: str, *, family: Family, networks: Collection[Network]) -> Iterator[str]:
    room = f"hashsize {_buckets(networks)} maxelem {_ENTRIES_MAX}"
    yield f"create {name} hash:net family {FAMILIES[family]} {room}\n"
    yield f"flush {name}\n"
    for network in networks:
        yield f"add {name} {network}\n"


def _buckets(networks: Collection[Network]) -> int:
    """Enough that the kernel need not make the set larger while it is filled."""
    return max(64, 1 << max(0, len(networks) - 1).bit_length())


def _read(names: Collection[str]) -> dict[str, set[str]]:
    """What these sets hold, as the document spells it; one process for all of them."""
    if not names:
        return {}
    done = run_tool(["ipset", "-"], text="".join(f"save {name}\n" for name in sorted(names)))
    held: dict[str, set[str]] = {}
    for line in done.output.splitlines():
        words = line.removeprefix("ipset> ").split()
        if words[:1] == ["create"]:
            held[words[1]] = set()
        elif words[:1] == ["add"]:
            # With whatever options: an exception ("nomatch") is none of ours.
            held[words[1]].add(" ".join([_spell(words[2]), *words[3:]]))
    if done.code != 0 or held.keys() != set(names):
        raise Rejected(
            f"The lists of networks could not be read: ipset said: {done.errors.strip() or done.code}"
        )
    return held


def _spell(entry: str) -> str:
    """ipset leaves the prefix of a single address out."""
    try:
        return str(ip_network(entry))
    except ValueError:
        return entry


def _take_back(made: Collection[str]) -> None:
    """What was made for rules that did not come in. A set that a rule uses all the same stays."""
    with suppress(KernelError):
        free = [one for one in read_headers(made.__contains__) if not one.references] if made else []
        carry_out((f"destroy {one.name}\n" for one in free), what=_WHAT)


def _let_go(sets: NetworkSets, spare: Collection[str]) -> None:
    if not spare:
        return
    try:
        patience = RELEASE_SECONDS if sets.committed else 0
        stuck = destroy(spare, is_ours=family_of_list, patience=patience, what=_WHAT)
    except KernelError as error:
        sets.warnings += (f"Lists of networks that no rule needs any more could not be destroyed: {error}",)
        return
    sets.warnings += tuple(
        f"Something else uses the list {name}, which no rule of lbadmin's needs any more: it was emptied, but"
        " could not be destroyed. Take out what uses it; it goes with the next apply."
        for name in stuck
    )


def _few(lines: list[str]) -> list[str]:
    if len(lines) <= _SHOWN:
        return lines
    return [*lines[:_SHOWN], f"{lines[0][:2]}… {len(lines) - _SHOWN} more entries of this list"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
