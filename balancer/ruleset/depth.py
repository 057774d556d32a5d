"""Through how many chains a connection is led, one after the other. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from balancer.domain.types import Service
from balancer.ruleset import names
from balancer.ruleset.ir import Ruleset, Table, TableName
from balancer.ruleset.targets import Goto, Jump

_LEADING = (Goto, Jump)
Leads = Mapping[str, Sequence[str]]
"""Chain -> the chains to which its rules lead."""


def deepest_way(ruleset: Ruleset, *, stand_ins: Iterable[Service] = ()) -> tuple[str, ...]:
    """The chains of the longest way through one table, the built-in one first.

    Of `stand_ins` those that name a service for when their backends are all down are taken to need it.
    """
    more = {
        names.service_chain(service.name): names.service_chain(service.all_down_service)
        for service in stand_ins
        if service.all_down_service is not None
    }
    ways = (way for table in ruleset.tables for way in _ways(table, more))
    return max(ways, key=len, default=())


def _ways(table: Table, more: Mapping[str, str]) -> Iterable[tuple[str, ...]]:
    leads = {
        chain: [rule.target.chain for rule in rules if isinstance(rule.target, _LEADING)]
        for chain, rules in table.chains.items()
    }
    if table.name is TableName.NAT:
        for chain in more.keys() & leads.keys():
            leads[chain].append(more[chain])
    for builtin, chain in table.jumps:
        yield (builtin, *_longest(leads, chain))


def _longest(leads: Leads, start: str) -> Iterable[str]:
    """Without recursion: stand-ins may stand in for one another in any number."""
    depth: dict[str, int] = {}
    waiting, opened = [start], set[str]()
    while waiting:
        chain = waiting[-1]
        before = [one for one in leads.get(chain, ()) if one not in depth and one not in opened]
        if chain in depth or not before:
            waiting.pop()
            depth[chain] = 1 + max((depth.get(one, 0) for one in leads.get(chain, ())), default=0)
        else:
            opened.add(chain)
            waiting += before
    at: str | None = start
    while at is not None:
        yield at
        # A loop, which the compiler never makes, is walked once.
        deeper = (one for one in leads.get(at, ()) if depth.get(one, 0) < depth[at])
        at = max(deeper, key=lambda one: depth.get(one, 0), default=None)
