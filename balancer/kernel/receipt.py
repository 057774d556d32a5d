"""What was done, as a Receipt with sentences for people. Pure; the real and the fake kernel share it."""

from dataclasses import replace

from balancer.domain.types import Family
from balancer.kernel.base import DriverName, Flavour, Receipt
from balancer.kernel.plan import TablePlan, name_table


def make_receipt(
    *,
    plans: tuple[TablePlan, ...],
    flavour: Flavour,
    driver: DriverName,
    digest: str,
    family: Family = Family.IPV4,
    duration_ms: int = 0,
    connections_removed: int = 0,
    steps: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Receipt:
    """`plans` are those that were committed; `steps` what was done besides."""
    return Receipt(
        changed=bool(plans),
        flavour=flavour,
        driver=driver,
        tables_committed=tuple(plan.table for plan in plans),
        chains_written=tuple(f"{plan.table} {chain}" for plan in plans for chain in plan.write),
        chains_deleted=tuple(f"{plan.table} {chain}" for plan in plans for chain in plan.delete),
        jumps_added=tuple(
            f"{plan.table} {jump.builtin} {jump.chain}"
            for plan in plans
            for jump in plan.jumps
            if jump.insert_at is not None
        ),
        connections_removed=connections_removed,
        duration_ms=duration_ms,
        ruleset_digest=digest,
        steps=(
            *steps,
            *_describe_steps(plans=plans, removed=connections_removed, flavour=flavour, family=family),
        ),
        warnings=warnings,
    )


def join_receipts(first: Receipt, second: Receipt) -> Receipt:
    """Of one deed for both families: IPv4, and IPv6 whose tables are named so."""

    def named(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name_table(text, family=Family.IPV6) for text in texts)

    return replace(
        first,
        changed=first.changed or second.changed,
        tables_committed=(*first.tables_committed, *named(second.tables_committed)),
        chains_written=(*first.chains_written, *named(second.chains_written)),
        chains_deleted=(*first.chains_deleted, *named(second.chains_deleted)),
        jumps_added=(*first.jumps_added, *named(second.jumps_added)),
        connections_removed=first.connections_removed + second.connections_removed,
        duration_ms=first.duration_ms + second.duration_ms,
        steps=(*first.steps, *second.steps),
        warnings=(*first.warnings, *second.warnings),
    )


def _describe_steps(
    *, plans: tuple[TablePlan, ...], removed: int, flavour: Flavour, family: Family
) -> list[str]:
    steps = [_describe_plan(plan, family=family) for plan in plans]
    rules = "rules" if family is Family.IPV4 else "IPv6 rules"
    if plans:
        steps.append(f"Read the {rules} back: they are what was written.")
    else:
        steps.append(f"The kernel already held these {rules}; nothing was written.")
    if flavour is Flavour.LEGACY and any(plan.table == "nat" for plan in plans):
        steps.append(
            "Round robin went on at another backend: iptables-legacy restarts it at every commit to nat."
        )
    if removed:
        steps.append(f"Ended {_count(removed, 'remembered connection')} that the rules now decide otherwise.")
    return steps


def _describe_plan(plan: TablePlan, *, family: Family) -> str:
    parts = []
    if plan.write:
        parts.append(f"wrote {_count(len(plan.write), 'chain')} with {_count(plan.rule_count, 'rule')}")
    if plan.delete:
        parts.append(f"deleted {_count(len(plan.delete), 'chain')}")
    set_jumps = sum(jump.insert_at is not None for jump in plan.jumps)
    if set_jumps:
        parts.append(f"set {_count(set_jumps, 'jump')}")
    if len(plan.jumps) > set_jumps:
        parts.append(f"took out {_count(len(plan.jumps) - set_jumps, 'jump')}")
    return f"Table {name_table(plan.table, family=family)}: {', '.join(parts)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
