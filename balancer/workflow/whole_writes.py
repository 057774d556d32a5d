"""What a worker writes by itself, for health or for weights that it moves: all families or none."""

from collections.abc import Sequence
from dataclasses import dataclass

from balancer.domain.types import Document
from balancer.kernel.base import Kernel, KernelError, OutcomeUnknown, Permit, Receipt
from balancer.kernel.guard_files import GuardError
from balancer.ruleset.ir import Ruleset


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """What a kernel carries, or is to carry."""

    document: Document
    rulesets: tuple[Ruleset, ...]


def write_whole(
    *, before: Laid, after: Laid, kernel: Kernel, permit: Permit
) -> tuple[tuple[Ruleset, Receipt], ...]:
    """Raises KernelError or GuardError; the kernel then carries what it did before, but for OutcomeUnknown.

    Half of what was wanted would look as if somebody else had changed the kernel.
    """
    written: list[tuple[Ruleset, Receipt]] = []
    for ruleset in after.rulesets:
        try:
            receipt = kernel.sync(ruleset=ruleset, document=after.document, permit=permit)
        except (KernelError, GuardError) as error:
            changed = {one.family for one, receipt in written if receipt.changed}
            if isinstance(error, OutcomeUnknown):
                changed.add(ruleset.family)
            back = [one for one in before.rulesets if one.family in changed]
            if back:
                _put_back(back, document=before.document, kernel=kernel, permit=permit, why=error)
            raise
        written.append((ruleset, receipt))
    return tuple(written)


def _put_back(
    rulesets: Sequence[Ruleset], *, document: Document, kernel: Kernel, permit: Permit, why: Exception
) -> None:
    """Raises OutcomeUnknown where it cannot, and KernelError where it could."""
    try:
        for ruleset in rulesets:
            kernel.sync(ruleset=ruleset, document=document, permit=permit)
    except (KernelError, GuardError) as error:
        raise OutcomeUnknown(f"{why} What was carried before could not be put back: {error}") from error
    raise KernelError(f"{why} What was carried before is in the kernel again.") from why
