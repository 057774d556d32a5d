"""The sets of clients that a ruleset needs: what has to be there before its rules can be loaded.

A set is told by its name alone (names.set_prefix), so that a ruleset that was read from text needs nothing
else.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from balancer.domain.types import Document, Family, PersistenceMode, Service
from balancer.ruleset import names
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.service import KNOWN_GROUPS, prefix_of
from balancer.ruleset.targets import Remember

_NAME = re.compile(r"LB-([46])\.(\d{1,3})-[A-Za-z0-9:._-]+")
_READABLE = re.compile(r"[^:]+:([0-9a-f.:]+)-(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class ClientSet:
    """An ipset `hash:ip` with timeouts."""

    name: str
    family: Family
    prefix: int
    """Bits of an address that are kept; clients with the same ones are one entry."""


def read_set_name(name: str) -> ClientSet | None:
    """The set that a name of ours tells of; None where it is none of ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return ClientSet(name, Family.IPV6 if found[1] == "6" else Family.IPV4, int(found[2]))


def sets_of(ruleset: Ruleset) -> tuple[ClientSet, ...]:
    """All that the rules read or fill, sorted by name."""
    chains = [rules for table in ruleset.tables for rules in table.chains.values()]
    names = {rule.clients for rules in chains for rule in rules if rule.clients is not None}
    names |= {name for members in _remembered(ruleset).values() for name in members}
    return tuple(sorted(found for name in names if (found := read_set_name(name)) is not None))


def members_of_groups(ruleset: Ruleset) -> Mapping[str, tuple[str, ...]]:
    """Set of a group -> the sets of its backends: who is remembered in one is remembered in the other."""
    groups: dict[str, list[str]] = defaultdict(list)
    for own, *rest in _remembered(ruleset).values():
        for group in rest:
            groups[group].append(own)
    return {group: tuple(sorted(members)) for group, members in sorted(groups.items())}


def sets_of_backends(service: Service) -> Mapping[str, str]:
    """Set -> the endpoint of the backend that has its clients there, in order of backends; disabled ones too,
    whose set is gone once a node carries that."""
    if service.persistence.mode is PersistenceMode.NONE:
        return {}
    prefix = prefix_of(service)
    return {
        names.client_set(service.name, prefix, backend.address, backend.port): backend.endpoint
        for backend in service.backends
    }


def sets_to_forget(service: Service, *, endpoint: str | None = None) -> tuple[str, ...]:
    """The sets in which the clients of a service are, or those of one of its backends.

    A client that only the set of its group still knows is balanced like any other.
    """
    own = sets_of_backends(service)
    if endpoint is not None:
        return tuple(name for name, known in own.items() if known == endpoint)
    prefix, version = prefix_of(service), 6 if service.family is Family.IPV6 else 4
    groups = (names.client_group_set(service.name, prefix, version, group) for group in range(KNOWN_GROUPS))
    return (*own, *groups) if own else ()


def endpoints_of_sets(found: Iterable[str], document: Document) -> Mapping[str, str]:
    """Set -> the endpoint of its backend, where its name or the document tells."""
    known = {
        name: endpoint
        for service in document.services
        for name, endpoint in sets_of_backends(service).items()
    }
    told = {}
    for name in found:
        readable = _READABLE.fullmatch(name.partition("-")[2].partition("-")[2])
        if name in known:
            told[name] = known[name]
        elif readable is not None:
            told[name] = _endpoint(readable[1], int(readable[2]))
    return told


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _remembered(ruleset: Ruleset) -> dict[str, list[str]]:
    """Chain -> the sets that it fills, the backend's own first."""
    found = {
        chain: [rule.target.clients for rule in rules if isinstance(rule.target, Remember)]
        for table in ruleset.tables
        for chain, rules in table.chains.items()
    }
    return {chain: names for chain, names in found.items() if names}
