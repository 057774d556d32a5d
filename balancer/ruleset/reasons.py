"""Why a service refuses a connection, and which rule says so: its counter counts these refusals alone."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from balancer.ruleset import marks, names
from balancer.ruleset.ir import Ruleset, SetConnMark, TableName


class Reason(StrEnum):
    NO_BACKEND = "no-backend"
    """The service has no backend that takes new connections."""


Place = tuple[TableName, str, int]
"""Table, chain, and the place of the rule in the chain, from 0."""


def reasons_of(ruleset: Ruleset, services: Iterable[str]) -> Mapping[Place, tuple[str, Reason]]:
    """Every rule that refuses: where it is -> the name of its service, and the reason."""
    nat = ruleset.table(TableName.NAT).chains
    return {
        (TableName.NAT, chain, index): (service, Reason.NO_BACKEND)
        for service in services
        for chain in (names.service_chain(service),)
        for index, rule in enumerate(nat.get(chain, ()))
        if rule.target == SetConnMark(marks.REFUSED)
    }
