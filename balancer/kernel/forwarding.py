"""Rules are brought in together with what they need of the machine: that it forwards, and counts packets."""

from dataclasses import dataclass
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel import sysctl
from balancer.kernel.base import KernelError
from balancer.kernel.plan import TablePlan, Wanted
from balancer.kernel.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """What was said about turning it, or the counting of packets, on and making it last."""

    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def bring_in_forwarding(
    transaction: Transaction,
    wanted: Wanted,
    *,
    jumps_first: bool,
    sysctl_file: Path | None,
    counting: bool,
) -> tuple[tuple[TablePlan, ...], Forwarded]:
    """The plans that were committed. Forwarding that had to be turned on is turned off on failure.

    `sysctl_file` makes it last, None is for here and now; `counting` has the kernel count packets as well.
    """
    family = transaction.family
    turned_on = sysctl.ensure_forwarding(family=family)
    try:
        plans = transaction.bring_in(wanted, jumps_first=jumps_first)
    except KernelError:
        if turned_on:
            sysctl.stop_forwarding(family=family)
        raise
    done = _persist(sysctl_file, family)
    counted = _count_packets(sysctl_file) if counting else Forwarded()
    name = "forwarding" if family is Family.IPV4 else "IPv6 forwarding"
    steps = (f"Turned {name} on.", *done.steps) if turned_on else done.steps
    return plans, Forwarded(steps=(*steps, *counted.steps), warnings=(*done.warnings, *counted.warnings))


def _count_packets(path: Path | None) -> Forwarded:
    """Failing to count is no reason to take working rules out again."""
    steps = []
    try:
        if turned_on := sysctl.ensure_accounting():
            names = ", ".join(key.rpartition(".")[2] for key in turned_on)
            steps.append(f"Turned the counting of packets and bytes on ({names}).")
        if path is not None and sysctl.persist_accounting(path=path):
            steps.append(f"Wrote {path}, so that counting outlasts a reboot.")
    except OSError as error:
        text = f"Packets and bytes of connections cannot be counted: {error.filename}: {error.strerror}."
        return Forwarded(steps=tuple(steps), warnings=(text,))
    return Forwarded(steps=tuple(steps))


def _persist(path: Path | None, family: Family) -> Forwarded:
    """Failing to write a file is no reason to take working rules out again."""
    if path is None:
        return Forwarded()
    try:
        written = sysctl.persist_forwarding(path=path, family=family)
    except OSError as error:
        text = f"Forwarding is on, but will not outlast a reboot: {path}: {error.strerror}."
        return Forwarded(warnings=(text,))
    steps = (f"Wrote {path}, so that forwarding outlasts a reboot.",) if written else ()
    return Forwarded(steps=steps)
