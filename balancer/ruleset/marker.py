"""A ruleset with a harmless difference, for a rollback drill."""

from dataclasses import replace

from balancer.ruleset.ir import Ruleset, TableName
from balancer.ruleset.names import drill_chain


def with_marker(ruleset: Ruleset, *, token: str) -> Ruleset:
    """The same with one more chain, which is empty and which nothing jumps to.

    In the table filter: a commit to nat would restart the counters of round-robin on iptables-legacy.
    """
    return replace(
        ruleset,
        tables=tuple(
            replace(table, chains={**table.chains, drill_chain(token): ()})
            if table.name is TableName.FILTER
            else table
            for table in ruleset.tables
        ),
    )
