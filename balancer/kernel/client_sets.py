"""The ipsets in which services with persistence keep their clients (balancer/ruleset/sets.py).

A set must be there before a rule that names it, and can go only when no rule does. All sets are made alike
but for family and prefix: how long a client stays is said by the rule that puts it in.
"""

from collections.abc import Iterable

from balancer.domain.types import Family
from balancer.domain.validation import BITS
from balancer.kernel.base import KernelError, Rejected
from balancer.kernel.tools import find_tool, read_lines, run_tool
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.sets import ClientSet, members_of_groups, read_set_name, sets_of

CLIENTS_MAX = 1_048_576
"""Of one set: a limit, not a reservation."""
_DEFAULT_TIMEOUT = 300
_FAMILIES = {Family.IPV4: "inet", Family.IPV6: "inet6"}


def prepare_sets(ruleset: Ruleset) -> tuple[str, ...]:
    """Makes the sets that are missing and returns their names. Raises Rejected where that cannot be done.

    A group of backends that is new is filled with the clients that its backends have already.
    """
    wanted = sets_of(ruleset)
    if not wanted:
        return ()
    if find_tool("ipset") is None:
        raise Rejected(
            "Persistence needs the program ipset, which is not installed on this node. Install the package"
            " ipset, or turn persistence off. Nothing was changed."
        )
    there = set(list_sets(family=ruleset.family))
    missing = tuple(one for one in wanted if one.name not in there)
    if missing:
        _restore("".join(_create(one) for one in missing))
        groups = members_of_groups(ruleset)
        for one in missing:
            _fill(one.name, [name for name in groups.get(one.name, ()) if name in there])
    return tuple(one.name for one in missing)


def drop_sets(ruleset: Ruleset) -> tuple[str, ...]:
    """Destroys the sets of the ruleset's family that it does not need, and so lets their clients go.

    Never raises: the rules are in. Returns warnings.
    """
    if find_tool("ipset") is None:
        return ()
    wanted = {one.name for one in sets_of(ruleset)}
    try:
        for name in list_sets(family=ruleset.family):
            if name not in wanted:
                _run("destroy", name)
    except KernelError as error:
        return (f"Sets of clients that nothing needs any more are still there: {error}",)
    return ()


def list_sets(*, family: Family) -> tuple[str, ...]:
    """The names of our sets of one family."""
    names = (line.strip() for line in read_lines(["ipset", "list", "-n"]))
    return tuple(name for name in names if (found := read_set_name(name)) and found.family is family)


def flush_sets(names: Iterable[str]) -> None:
    """Forgets all clients that are in these sets. Raises KernelError."""
    for name in names:
        _run("flush", name)


def count_clients() -> dict[str, int]:
    """Set -> how many entries it holds now, for all of our sets."""
    if find_tool("ipset") is None:
        return {}
    counts: dict[str, int] = {}
    name = ""
    for line in read_lines(["ipset", "list", "-t"]):
        key, _, value = line.partition(":")
        if key == "Name":
            name = value.strip()
        elif key == "Number of entries" and read_set_name(name):
            counts[name] = int(value)
    return counts


def _create(one: ClientSet) -> str:
    netmask = f" netmask {one.prefix}" if one.prefix < BITS[one.family] else ""
    return (
        f"create {one.name} hash:ip family {_FAMILIES[one.family]} timeout {_DEFAULT_TIMEOUT}"
        f" maxelem {CLIENTS_MAX}{netmask}\n"
    )


def _fill(group: str, members: list[str]) -> None:
    for member in members:
        added = (
            f"add {group} {line.split(' ', 2)[2]}"
            for line in read_lines(["ipset", "save", member])
            if line.startswith("add ")
        )
        _restore("".join(added))


def _restore(text: str) -> None:
    done = run_tool(["ipset", "restore", "-exist"], text=text)
    if done.code != 0:
        raise Rejected(
            f"The sets of clients could not be made: ipset said: {done.errors.strip() or done.code}"
        )


def _run(verb: str, name: str) -> None:
    done = run_tool(["ipset", verb, name])
    if done.code != 0:
        raise Rejected(f"ipset said: {done.errors.strip() or done.code}")
