"""A job brings the rules of its revision into its node's kernel: both families, or neither."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

from balancer.domain.types import Family
from balancer.kernel.base import Busy, Kernel, KernelError, OutcomeUnknown, Permit, Receipt
from balancer.kernel.guard_files import GuardError
from balancer.models import Job
from balancer.workflow.confirming import Bench, put_back
from balancer.workflow.drift import puts_jumps_first
from balancer.workflow.effective import effective_now
from balancer.workflow.job_records import Outcome, note
from balancer.workflow.revisions import compile_rulesets, node_rulesets

SYNCS_MAX = 3
"""Tries of one worker while the kernel is busy or cannot say what it holds."""
Receipts = dict[Family, Receipt]
_LABELS = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}

logger = logging.getLogger(__name__)


def _no_more(job: Job, bench: Bench) -> list[str]:
    return []


def write_rules(
    *,
    job: Job,
    bench: Bench,
    permit: Permit | None = None,
    afterwards: Callable[[Job, Bench], list[str]] = _no_more,
) -> Outcome:
    """Make the kernel carry the revision; again where that can help."""
    note(job, "Writing the rules into the kernel.", clock=bench.clock)
    done: Receipts = {}
    for left in reversed(range(SYNCS_MAX)):
        try:
            outcome = _sync(job=job, kernel=bench.kernel, permit=permit, done=done, now=bench.clock())
            job.receipt = outcome.receipt
            outcome.steps += afterwards(job, bench)
            return outcome
        except (Busy, OutcomeUnknown) as error:
            if not left:
                return _failure(job, error, done)
            note(job, f"{error} Trying once more.", clock=bench.clock)
        except Exception as error:  # noqa: BLE001 - whatever a driver does wrong, the job must not stay running
            return _failure(job, error, done)
    raise AssertionError("SYNCS_MAX is at least 1")


def undo(*, token: str, outcome: Outcome, bench: Bench) -> None:
    """One family was written and the other was not: go back at once, without waiting for the guard."""
    before = bench.guard.confirmed()
    if before is None:
        return
    try:
        put_back(before=before, token=token, bench=bench)
    except (KernelError, GuardError) as error:
        outcome.error += f" Putting the earlier rules back failed too, and is left to the guard: {error}"
    else:
        outcome.known = True
        outcome.error += " What was written was put back."


def _failure(job: Job, error: Exception, done: Receipts) -> Outcome:
    written = [family for family, receipt in done.items() if receipt.changed]
    if written and len(done) < len(Family):
        return Outcome(
            error=f"The {_LABELS[written[0]]} rules were written, the others were not. {error}",
            known=False,
            partly=True,
        )
    if isinstance(error, GuardError):
        return Outcome(error=f"Nothing was written. {error}")
    if isinstance(error, KernelError):
        return Outcome(error=str(error), known=not isinstance(error, OutcomeUnknown))
    logger.error("Job %s failed unexpectedly.", job.pk, exc_info=error)
    return Outcome(error=f"Unexpected {type(error).__name__}: {error}", known=False)


def _sync(*, job: Job, kernel: Kernel, permit: Permit | None, done: Receipts, now: datetime) -> Outcome:
    """Both families, one after the other. `done` keeps the receipts of those that are in, for another try."""
    effective = effective_now(cluster=job.node.cluster, revision=job.revision, node=job.node, now=now)
    outcome = Outcome(receipt={})
    kept = compile_rulesets(effective.document)
    more = {"jumps_first": True} if puts_jumps_first(job) else {}
    for family, ruleset in node_rulesets(effective.document).items():
        receipt = kernel.sync(ruleset=ruleset, document=effective.document, permit=permit, **more)
        if receipt.changed or family not in done:
            done[family] = receipt
        receipt = done[family]
        if family not in kept and not receipt.changed:
            continue  # neither asked for nor there
        assert outcome.receipt is not None
        outcome.receipt[str(family)] = asdict(receipt) | effective.to_data()
        outcome.steps += [*receipt.steps, *(f"Warning: {warning}" for warning in receipt.warnings)]
        if not receipt.changed:
            outcome.steps.append("The kernel carried these rules already; nothing was written.")
    return outcome
