"""What the settings name (`LBADMIN_…_FACTORY`): the real kernel, guard and rehearsal of a node."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from django.conf import settings

from balancer.domain.digests import join_digests
from balancer.domain.types import Document
from balancer.kernel.base import Busy, DriverName, Flavour, Kernel, KernelError
from balancer.kernel.guard import FileGuard, Guard
from balancer.kernel.meter import Meter
from balancer.lab.errors import LabError
from balancer.lab.rehearsal import Load, Loaded, Rehearsal
from balancer.lab.rehearse import rehearse
from balancer.ruleset.ir import Ruleset
from balancer.workflow.rehearsing import Rehearse

AUTO = "auto"
OFF = "off"


def make_node_kernel(*, flavour: str, driver: str) -> Kernel:
    """The real one, of the network namespace in which the worker runs."""
    # Here, not above: only a worker ever loads it.
    from balancer.kernel.node import NodeKernel

    return NodeKernel(
        flavour=None if flavour == AUTO else Flavour(flavour),
        driver=None if driver == AUTO else DriverName(driver),
        this_host=settings.LBADMIN_THIS_HOST,
        meter=None if settings.LBADMIN_GUARD == OFF else own_meter(),
    )


def make_guard(*, mode: str, directory: str) -> Guard:
    """The real one, or one that does nothing where the settings want none."""
    if mode == OFF:
        from balancer.kernel.guard_fake import OffGuard

        return OffGuard()
    return FileGuard(directory=Path(directory))


def make_rehearse(*, flavour: str, driver: str) -> Rehearse:
    """The real one, in a lab of its own."""

    def run(
        *,
        document: Document,
        rulesets: Sequence[Ruleset],
        touched: Collection[str],
        meanwhile: Callable[[], None] | None = None,
    ) -> Rehearsal:
        load = rehearsal_loader(flavour=flavour, driver=driver)
        return rehearse(document=document, load=load, rulesets=rulesets, touched=touched, meanwhile=meanwhile)

    return run


def rehearsal_loader(*, flavour: str = AUTO, driver: str = AUTO) -> Load:
    """How a node with this flavour and driver brings a ruleset into the lab of a rehearsal.

    What says nothing about the ruleset (a driver that cannot work here, a lock that is held) is a LabError.
    """
    from balancer.kernel.depth import refuse_depth_at_worst
    from balancer.kernel.elsewhere import sync_inside
    from balancer.kernel.selection import select

    def load(namespace: Path, locks: Path, rulesets: tuple[Ruleset, ...], document: Document) -> Loaded:
        try:
            selected = select(
                flavour=None if flavour == AUTO else Flavour(flavour),
                driver=None if driver == AUTO else DriverName(driver),
            )
        except KernelError as error:
            raise LabError(str(error)) from error
        try:
            for ruleset in rulesets:
                refuse_depth_at_worst(ruleset, document=document, flavour=selected.flavour)
            receipts = sync_inside(
                namespace=namespace,
                rulesets=rulesets,
                document=document,
                lock_directory=locks,
                flavour=selected.flavour,
                driver=selected.driver,
            )
        except Busy as error:
            raise LabError(str(error)) from error
        except KernelError as error:
            return Loaded(error=str(error), flavour=selected.flavour, driver=selected.driver, digest="")
        return Loaded(
            error=None,
            flavour=receipts[0].flavour,
            driver=receipts[0].driver,
            digest=join_digests([receipt.ruleset_digest for receipt in receipts]),
        )

    return load


def own_meter() -> Meter:
    """Counts in the directory of the node's guard, which outlasts a restart."""
    return Meter(directory=Path(settings.LBADMIN_GUARD_DIR))
