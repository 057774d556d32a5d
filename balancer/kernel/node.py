"""The real kernel of the network namespace in which the calling thread stands."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from balancer.domain.codec import digest_text
from balancer.domain.observation import Observation
from balancer.domain.types import Document, Family, Service
from balancer.kernel import sysctl
from balancer.kernel.base import (
    Difference,
    DriverName,
    Flavour,
    KernelError,
    Loads,
    NodeFacts,
    Permit,
    Receipt,
    ensure_own_namespace,
    is_init_namespace,
)
from balancer.kernel.client_sets import drop_sets, prepare_sets
from balancer.kernel.conntrack import Reconciled, reconcile_connections
from balancer.kernel.flavour import read_other_flavour, read_snapshot, refuse_own_chains, warn_about_other
from balancer.kernel.loads import count_loads
from balancer.kernel.lock import default_lock_directory, hold_writer_lock
from balancer.kernel.network import list_interfaces, local_addresses
from balancer.kernel.observe import observe_machine
from balancer.kernel.plan import (
    TablePlan,
    Wanted,
    describe_difference,
    order_tables,
    want_nothing,
    want_ruleset,
)
from balancer.kernel.receipt import make_receipt
from balancer.kernel.restore import RestoreDriver
from balancer.kernel.selection import Selection, select
from balancer.kernel.tools import find_tool
from balancer.kernel.transaction import Transaction
from balancer.kernel.turning import go_on_elsewhere
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.render import render_ruleset

DEFAULT_WAIT_SECONDS = 10.0
COMPARE_READS = 2
"""A difference is looked at again: iptables-nft-save 1.8.9 was seen to print a table in the middle of a
commit that somebody else made."""


class NodeKernel:
    """Implements `Kernel`. One value may be used from several threads; writers take turns."""

    def __init__(
        self,
        *,
        flavour: Flavour | None = None,
        driver: DriverName | None = None,
        this_host: bool = False,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        lock_directory: Path | None = None,
        sysctl_file: Path | None = None,
    ) -> None:
        """None for `flavour` and `driver` follows the machine. `this_host` allows the namespace of PID 1.

        `wait_seconds` bounds the wait for each lock. `sysctl_file` makes forwarding last; left out, it is
        /etc/sysctl.d/60-lbadmin.conf on the machine itself, and nothing in a namespace.
        """
        self._flavour = flavour
        self._driver = driver
        self._this_host = this_host
        self._wait = wait_seconds
        self._lock_directory = lock_directory or default_lock_directory()
        self._sysctl_file = sysctl_file
        self._selected: Selection | None = None

    def sync(self, *, ruleset: Ruleset, document: Document, permit: Permit | None = None) -> Receipt:
        """See `Kernel.sync`. Turns forwarding on, and brings remembered connections in line as well."""
        started = time.monotonic()
        with self._writing(ruleset.family, ruleset) as transaction:
            if permit is not None:
                permit()
            warnings = self._look_at_other_flavour(ruleset.family)
            wanted = order_tables(want_ruleset(ruleset), document=document)
            prepare_sets(ruleset)
            plans, turned_on = _bring_in_with_forwarding(transaction, wanted)
            warnings += drop_sets(ruleset)
            reconciled = self._reconcile(document, ruleset.family)
            written, not_persisted = self._persist_forwarding(ruleset.family)
        return self._receipt(
            plans,
            reconciled,
            started=started,
            digest=digest_text(render_ruleset(ruleset)),
            steps=(*(["Turned forwarding on."] if turned_on else []), *written),
            warnings=(*warnings, *not_persisted),
        )

    def compare(self, *, ruleset: Ruleset) -> Difference:
        """See `Kernel.compare`."""
        wanted = want_ruleset(ruleset)
        lines: tuple[str, ...] = ()
        for _ in range(COMPARE_READS):
            snapshot = read_snapshot(flavour=self._select().flavour, family=ruleset.family)
            lines = describe_difference(snapshot=snapshot, wanted=wanted, family=ruleset.family)
            if not lines:
                break
        return Difference(in_sync=not lines, lines=lines)

    def facts(self) -> NodeFacts:
        """See `Kernel.facts`."""
        selection = self._select()
        family = Family.IPV4
        path = self._sysctl_path()
        return NodeFacts(
            flavour=selection.flavour,
            driver=selection.driver,
            driver_reason=selection.reason,
            kernel=os.uname().release,
            iptables_version=selection.version,
            interfaces=list_interfaces(),
            forwarding=sysctl.is_forwarding(family=family),
            forwarding_persisted=path is not None and sysctl.is_persisted(path=path, family=family),
            warnings=self._find_warnings(family),
        )

    def observe(self) -> Observation:
        """See `Kernel.observe`."""
        return observe_machine(flavour=self._select().flavour, family=Family.IPV4)

    def count_loads(self, *, services: Sequence[Service]) -> Loads:
        """See `Kernel.count_loads`."""
        return count_loads(services)

    def remove(self) -> Receipt:
        """See `Kernel.remove`. Forwarding stays as it is: others may need it."""
        started = time.monotonic()
        family = Family.IPV4
        with self._writing(family) as transaction:
            plans = transaction.bring_in(want_nothing())
            drop_sets(Ruleset(family=family, tables=()))
            reconciled = self._reconcile(Document(), family)
        return self._receipt(plans, reconciled, started=started)

    def _select(self) -> Selection:
        if self._selected is None:
            self._selected = select(flavour=self._flavour, driver=self._driver)
        return self._selected

    @contextmanager
    def _writing(self, family: Family, ruleset: Ruleset | None = None) -> Iterator[Transaction]:
        ensure_own_namespace(this_host=self._this_host)
        selection = self._select()
        with hold_writer_lock(directory=self._lock_directory, wait_seconds=self._wait) as lock:
            yield Transaction(
                flavour=selection.flavour,
                family=family,
                driver=selection.make_driver(family=family, wait_seconds=self._wait),
                put_back=RestoreDriver(flavour=selection.flavour, family=family, wait_seconds=self._wait),
                lock=lock,
                go_on=go_on_elsewhere(ruleset, flavour=selection.flavour),
            )

    def _look_at_other_flavour(self, family: Family) -> tuple[str, ...]:
        flavour = self._select().flavour
        other = read_other_flavour(flavour=flavour, family=family)
        refuse_own_chains(other=other, flavour=flavour)
        return warn_about_other(other=other, flavour=flavour)

    def _find_warnings(self, family: Family) -> tuple[str, ...]:
        try:
            warnings = self._look_at_other_flavour(family)
        except KernelError as error:
            warnings = (str(error),)
        if find_tool("conntrack") is None:
            warnings += (
                "The program conntrack is not installed: UDP clients stay on backends that were removed.",
            )
        return warnings

    def _persist_forwarding(self, family: Family) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Steps and warnings. Failing to write a file is no reason to take working rules out again."""
        path = self._sysctl_path()
        if path is None:
            return (), ()
        try:
            written = sysctl.persist_forwarding(path=path, family=family)
        except OSError as error:
            return (), (f"Forwarding is on, but will not outlast a reboot: {path}: {error.strerror}.",)
        return ((f"Wrote {path}, so that forwarding outlasts a reboot.",) if written else ()), ()

    def _sysctl_path(self) -> Path | None:
        if self._sysctl_file is not None:
            return self._sysctl_file
        return sysctl.HOST_SYSCTL_FILE if self._this_host and is_init_namespace() else None

    def _reconcile(self, document: Document, family: Family) -> Reconciled:
        return reconcile_connections(
            document=document, family=family, local_addresses=local_addresses(family=family)
        )

    def _receipt(
        self,
        plans: tuple[TablePlan, ...],
        reconciled: Reconciled,
        *,
        started: float,
        digest: str = "",
        steps: tuple[str, ...] = (),
        warnings: tuple[str, ...] = (),
    ) -> Receipt:
        selection = self._select()
        return make_receipt(
            plans=plans,
            flavour=selection.flavour,
            driver=selection.driver,
            digest=digest,
            duration_ms=round((time.monotonic() - started) * 1000),
            connections_removed=reconciled.removed,
            steps=steps,
            warnings=(*warnings, *reconciled.warnings),
        )


def _bring_in_with_forwarding(transaction: Transaction, wanted: Wanted) -> tuple[tuple[TablePlan, ...], bool]:
    """The plans that were committed, and whether forwarding had to be turned on. Undoes that on failure."""
    turned_on = sysctl.ensure_forwarding(family=transaction.family)
    try:
        return transaction.bring_in(wanted), turned_on
    except KernelError:
        if turned_on:
            sysctl.stop_forwarding(family=transaction.family)
        raise
