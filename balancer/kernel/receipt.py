"""What was done, as a Receipt with sentences for people. Pure; the real and the fake kernel share it."""

from balancer.kernel.base import DriverName, Flavour, Receipt
from balancer.kernel.plan import TablePlan


def make_receipt(
    *,
    plans: tuple[TablePlan, ...],
    flavour: Flavour,
    driver: DriverName,
    digest: str,
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
        steps=(*steps, *_describe_steps(plans=plans, removed=connections_removed, flavour=flavour)),
        warnings=warnings,
    )


def _describe_steps(*, plans: tuple[TablePlan, ...], removed: int, flavour: Flavour) -> list[str]:
    steps = [_describe_plan(plan) for plan in plans]
    if plans:
        steps.append("Read the rules back: they are what was written.")
    else:
        steps.append("The kernel already held these rules; nothing was written.")
    if flavour is Flavour.LEGACY and any(plan.table == "nat" for plan in plans):
        steps.append(
            "Round robin went on at another backend: iptables-legacy restarts it at every commit to nat."
        )
    if removed:
        steps.append(f"Ended {_count(removed, 'remembered connection')} that the rules now decide otherwise.")
    return steps


def _describe_plan(plan: TablePlan) -> str:
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
    return f"Table {plan.table}: {', '.join(parts)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
