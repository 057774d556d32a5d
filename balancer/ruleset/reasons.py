"""Why a service refuses a connection, and which rule says so: its counter counts these refusals alone."""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

from balancer.ruleset import marks, names
from balancer.ruleset.ir import Rule, Ruleset, TableName
from balancer.ruleset.targets import Drop, Goto, SetConnMark


class Reason(StrEnum):
    DENIED = "denied"
    """Its address is on the deny list."""
    NOT_ALLOWED = "not-allowed"
    """There is an allow list, and its address is not on it."""
    RATE = "rate"
    """It begins too many connections a second."""
    CONNECTIONS = "connections"
    """It has too many connections."""
    BACKEND_FULL = "backend-full"
    """The backend that was chosen has too many connections."""
    INVALID = "invalid"
    """A packet that conntrack calls INVALID, to the service or of a backend of it alone."""
    NOT_SYN = "not-syn"
    """A TCP packet of no known connection that does not begin one; dropped, or reset (`access`)."""
    NO_BACKEND = "no-backend"
    """The service has no backend that takes new connections."""


Place = tuple[TableName, str, int]
"""Table, chain, and the place of the rule in the chain, from 0."""
Chains = Mapping[tuple[TableName, str], tuple[Rule, ...]]


def reason_of(rule: Rule) -> Reason | None:
    """Told by the rule alone; None where it refuses nobody. INVALID is told by `reasons_of`."""
    if rule.not_syn:
        return Reason.NOT_SYN
    if rule.listed is not None:
        return Reason.NOT_ALLOWED if rule.listed.outside else Reason.DENIED
    if rule.faster is not None:
        return Reason.RATE
    if rule.more_than is not None:
        return Reason.BACKEND_FULL if rule.more_than.of_destination else Reason.CONNECTIONS
    refuses = rule.tcp_flags is None and rule.target == SetConnMark(marks.REFUSED)
    return Reason.NO_BACKEND if refuses else None


def reasons_of(ruleset: Ruleset, services: Iterable[str]) -> Mapping[Place, tuple[str, Reason]]:
    """Every rule that refuses: where it is -> the name of its service, and the reason.

    What the counters of rules with equal service and reason have counted belongs together: INVALID packets
    have a rule for each port, address and interface of the service, and for each backend.
    """
    return dict(_find(ruleset, tuple(services)))


def _find(ruleset: Ruleset, services: tuple[str, ...]) -> Iterator[tuple[Place, tuple[str, Reason]]]:
    chains = {(table.name, chain): rules for table in ruleset.tables for chain, rules in table.chains.items()}
    for service in services:
        for reason, place in _refusal_chains(service):
            if place in chains:
                yield (*place, len(chains[place]) - 1), (service, reason)
        for index, rule in enumerate(chains.get((TableName.MANGLE, names.limits_chain(service)), ())):
            if (found := reason_of(rule)) is not None:
                yield (TableName.MANGLE, names.limits_chain(service), index), (service, found)
        for index, rule in enumerate(chains.get((TableName.NAT, names.service_chain(service)), ())):
            if reason_of(rule) is Reason.NO_BACKEND:
                yield (TableName.NAT, names.service_chain(service), index), (service, Reason.NO_BACKEND)
    yield from _find_invalid(chains)


def _refusal_chains(service: str) -> Iterator[tuple[Reason, tuple[TableName, str]]]:
    for reason in Reason:
        yield reason, (TableName.NAT, names.refusal_chain(service, reason))
        if reason is not Reason.INVALID:  # told by the rules that lead there
            yield reason, (TableName.FILTER, names.refusal_chain(service, reason))


def _find_invalid(chains: Chains) -> Iterator[tuple[Place, tuple[str, Reason]]]:
    for (table, chain), rules in chains.items():
        if table is TableName.FILTER:
            for index, rule in enumerate(rules):
                if rule.comment is not None and _drops_invalid(rule):
                    yield (table, chain, index), (rule.comment, Reason.INVALID)


def _drops_invalid(rule: Rule) -> bool:
    """A leaf of the tree of INVALID packets; that of the SYN proxy may lead to a chain, too."""
    if isinstance(rule.target, Goto):
        return rule.target.chain != names.proxy_chain(rule.comment or "")
    return isinstance(rule.target, Drop)
