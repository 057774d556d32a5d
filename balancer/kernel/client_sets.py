"""The ipsets in which services with persistence keep their clients (balancer/ruleset/sets.py).

A set must be there before a rule that names it, and can go only when no rule does. All sets are made alike
but for family and prefix: how long a client stays is said by the rule that puts it in. However many sets
there are, they are read, made and destroyed by one process each.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from balancer.domain.limits import BITS
from balancer.domain.types import Document, Family
from balancer.kernel.base import KernelError, Rejected
from balancer.kernel.ipset import FAMILIES, RELEASE_SECONDS, Found, carry_out, destroy, read_headers
from balancer.kernel.set_sizes import CROWDED, buckets_for, buckets_of
from balancer.kernel.tools import find_tool, read_lines
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.names import set_prefix
from balancer.ruleset.sets import ClientSet, endpoints_of_sets, members_of_groups, read_set_name, sets_of

CLIENTS_MAX = 1_048_576
"""Of one set: a limit, not a reservation. A client beyond it is balanced as if there were no persistence."""
_DEFAULT_TIMEOUT = 300
_NAMED_MAX = 3
_WHAT = "sets of clients"
_SPARE = "grow:spare"
"""Of no service: behind the colon would be a backend, the number of a group or ten digits."""


@dataclass(slots=True)
class Sets:
    """What was done about the sets of a ruleset. Whoever commits its rules says so in `committed`."""

    committed: bool = True
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    _made: tuple[ClientSet, ...] = ()
    _filled: set[str] = field(default_factory=set)


@contextmanager
def client_sets_for(ruleset: Ruleset, *, document: Document) -> Iterator[Sets]:
    """The sets that the ruleset names are there inside, where its rules are brought in.

    Afterwards those of its family that it does not name are destroyed, which lets their clients go; where
    the inside raises, those that were made for it. Raises Rejected before anything is written where a set
    cannot be had; what goes wrong afterwards is a warning, since the rules are in.
    """
    sets, wanted = Sets(), sets_of(ruleset)
    if find_tool("ipset") is None:
        if wanted:
            raise Rejected(
                "Persistence needs the program ipset, which is not installed on this node. Install the"
                " package ipset, or turn persistence off. Nothing was changed."
            )
        yield sets
        return
    there: dict[str, Found] = {}
    try:
        there = {one.name: one for one in read_sets() if _family_of(one) is ruleset.family}
    except KernelError as error:
        if wanted:
            raise
        sets.warnings += (f"Whether sets of clients are left over cannot be told: {error}",)
    _refuse_others(wanted, there)
    sets._made = tuple(one for one in wanted if one.name not in there)
    try:
        _make(sets, ruleset, there)
        yield sets
    except BaseException:
        _take_back(sets)
        raise
    _settle(sets, ruleset, there, spare=there.keys() - {one.name for one in wanted}, document=document)


def read_sets() -> tuple[Found, ...]:
    """All of our sets, of both families. None where the kernel has no sets at all."""
    return read_headers(read_set_name)


def count_clients() -> dict[str, int]:
    """Set -> how many entries it holds now, for all of our sets."""
    if find_tool("ipset") is None:
        return {}
    return {one.name: one.entries for one in read_sets()}


def forget_clients(names: Collection[str]) -> int:
    """Empties those of the sets that are there; returns how many entries they held. Raises KernelError."""
    counts = {name: count for name, count in count_clients().items() if name in names}
    _restore(f"flush {name}\n" for name in counts)
    return sum(counts.values())


def is_crowded() -> bool:
    """Whether any of the sets is. Reads only."""
    return find_tool("ipset") is not None and bool(_crowded())


def make_room() -> int:
    """Puts larger sets in the place of crowded ones; how many. Raises KernelError."""
    _restore(f"destroy {one.name}\n" for one in read_sets() if one.name.endswith(_SPARE))  # of a crash
    crowded = _crowded()
    for one, found in crowded:
        _grow(one, found)
    return len(crowded)


def describe_made(number: int) -> tuple[str, ...]:
    return (f"Made {_count(number, 'set')} of clients.",) if number else ()


def describe_gone(names: Collection[str], document: Document) -> tuple[str, ...]:
    """`Let the clients of 10.0.0.4:80 go.`; nothing for sets that were groups of backends."""
    known = endpoints_of_sets(names, document)
    gone = sorted(set(known.values()))
    if not gone:
        return ()
    which = ", ".join(gone) if len(gone) <= _NAMED_MAX else _count(len(gone), "backend")
    return (f"Let the clients of {which} go.",)


def _refuse_others(wanted: Iterable[ClientSet], there: Mapping[str, Found]) -> None:
    for one in wanted:
        found = there.get(one.name)
        if found is not None and (differs := _difference(one, found)):
            raise Rejected(
                f"There is a set {one.name} already, which lbadmin did not make: it {differs}. Destroy it"
                f" (ipset destroy {one.name}), with the rules that use it. Nothing was changed."
            )


def _difference(one: ClientSet, found: Found) -> str:
    """Why the set that is there cannot keep our clients; empty where it can."""
    if found.kind != "hash:ip":
        return f"is of type {found.kind}, not hash:ip"
    family, bits = FAMILIES[one.family], BITS[one.family]
    kept = int(found.word("netmask") or bits)
    if found.word("family") != family:
        return f"is of family {found.word('family')}, not {family}"
    if found.word("bitmask") is not None:
        return "keeps the bits of a mask, not the first ones"
    if kept != one.prefix:
        return f"keeps {kept} bits of an address, not {one.prefix}"
    return "" if found.word("timeout") is not None else "keeps its entries for ever"


def _family_of(one: Found) -> Family | None:
    named = read_set_name(one.name)
    return named.family if named else None


def _make(sets: Sets, ruleset: Ruleset, there: Mapping[str, Found]) -> None:
    buckets = buckets_of(ruleset)
    _restore(_create(one, name=one.name, buckets=buckets[one.name]) for one in sets._made)
    _fill_groups(sets, ruleset, there)


def _create(one: ClientSet, *, name: str, buckets: int) -> str:
    netmask = f" netmask {one.prefix}" if one.prefix < BITS[one.family] else ""
    return (
        f"create {name} hash:ip family {FAMILIES[one.family]} hashsize {buckets}"
        f" timeout {_DEFAULT_TIMEOUT} maxelem {CLIENTS_MAX}{netmask}\n"
    )


def _grow(one: ClientSet, found: Found) -> None:
    """Puts a larger set in the place of a crowded one, under the rules that use it and with its clients."""
    spare = f"{set_prefix(4 if one.family is Family.IPV4 else 6, one.prefix)}{_SPARE}"
    _restore([_create(one, name=spare, buckets=buckets_for(found.entries))])
    _copy(one.name, into=spare)
    _restore([f"swap {spare} {one.name}\n"])
    _copy(spare, into=one.name)  # who came meanwhile
    _restore([f"destroy {spare}\n"])


def _copy(name: str, *, into: str) -> None:
    saved = (line.split(" ", 2) for line in read_lines(["ipset", "save", name]))
    _restore(f"add {into} {words[2]}" for words in saved if words[0] == "add")


def _fill_groups(sets: Sets, ruleset: Ruleset, there: Mapping[str, Found]) -> None:
    """A group of backends that is new gets the clients that its backends have already, each once."""
    made = {one.name for one in sets._made}
    groups = members_of_groups(ruleset)
    into = {member: group for group in groups.keys() & made for member in groups[group] if member in there}
    if not into:
        return
    entries = []
    for line in read_lines(["ipset", "save"]):
        verb, member, entry = (*line.split(" ", 2), "", "")[:3]
        if verb == "add" and member in into:
            place = f"{into[member]} {entry.partition(' ')[0]}"
            if place not in sets._filled:
                sets._filled.add(place)
                entries.append(f"add {into[member]} {entry}")
    _restore(entries)


def _crowded() -> list[tuple[ClientSet, Found]]:
    known = [(read_set_name(found.name), found) for found in read_sets() if _is_crowded(found)]
    return [(one, found) for one, found in known if one is not None and not found.name.endswith(_SPARE)]


def _is_crowded(found: Found) -> bool:
    return found.entries > CROWDED * int(found.word("hashsize") or 0)


def _take_back(sets: Sets) -> None:
    """What was made for rules that did not come in. A set that a rule uses all the same stays."""
    made = {one.name for one in sets._made}
    with suppress(KernelError):
        free = [one.name for one in read_sets() if one.name in made and not one.references] if made else []
        _restore(f"destroy {name}\n" for name in free)


def _settle(
    sets: Sets, ruleset: Ruleset, there: Mapping[str, Found], *, spare: Collection[str], document: Document
) -> None:
    """The rules are in. Clients that came while they were brought in belong into new groups as well."""
    sets.steps += describe_made(len(sets._made))
    try:
        _fill_groups(sets, ruleset, there)
        if spare:
            patience = RELEASE_SECONDS if sets.committed else 0
            stuck = destroy(spare, is_ours=read_set_name, patience=patience, what=_WHAT)
            sets.steps += describe_gone(spare, document)
            sets.warnings += tuple(
                f"Something else uses the set {name}, which no rule of lbadmin's needs any more: it was"
                " emptied, but could not be destroyed. Take out what uses it; it goes with the next apply."
                for name in stuck
            )
        crowded = [one for one in sets_of(ruleset) if one.name in there and _is_crowded(there[one.name])]
        for one in crowded:
            _grow(one, there[one.name])
        if crowded:
            sets.steps += (f"Made more room in {_count(len(crowded), 'set')} of clients.",)
    except KernelError as error:
        sets.warnings += (f"The sets of clients could not be put in order, but the rules are in: {error}",)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _restore(lines: Iterable[str]) -> None:
    carry_out(lines, what=_WHAT)
