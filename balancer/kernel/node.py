"""The real kernel of the network namespace in which the calling thread stands."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from balancer.domain.codec import digest_text
from balancer.domain.observation import Observation
from balancer.domain.types import Document, Family, Service
from balancer.kernel import sysctl
from balancer.kernel.advertised import warn_about_advertisements
from balancer.kernel.base import (
    Difference,
    DriverName,
    Flavour,
    Loads,
    NodeFacts,
    Permit,
    Receipt,
    ensure_own_namespace,
    is_init_namespace,
)
from balancer.kernel.capabilities import FindMissing, find_missing, refuse_what_is_missing
from balancer.kernel.client_sets import client_sets_for, count_clients, forget_clients, is_crowded, make_room
from balancer.kernel.comparing import Comparer
from balancer.kernel.conntrack import Reconciled, reconcile_connections
from balancer.kernel.counted import CountedDriver
from balancer.kernel.counter_table import PlaceOf, places_in
from balancer.kernel.depth import look_at_depth
from balancer.kernel.flavour import (
    look_at_other_flavour,
    read_if_any,
    read_snapshot,
)
from balancer.kernel.forwarding import Forwarded, bring_in_forwarding
from balancer.kernel.idle import holds_ours, is_idle, want_of
from balancer.kernel.loads import count_loads, count_open
from balancer.kernel.lock import default_lock_directory, hold_writer_lock
from balancer.kernel.meter import Meter
from balancer.kernel.native import NativeWatch
from balancer.kernel.network import local_addresses
from balancer.kernel.network_sets import network_sets_for
from balancer.kernel.node_facts import read_facts
from balancer.kernel.observe import observe_machine
from balancer.kernel.plan import (
    TablePlan,
    Wanted,
    order_tables,
    want_nothing,
)
from balancer.kernel.receipt import join_receipts, make_receipt
from balancer.kernel.restore import RestoreDriver
from balancer.kernel.selection import Selection, select
from balancer.kernel.transaction import Transaction
from balancer.kernel.turning import go_on_elsewhere
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.parse import Snapshot
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.sets import sets_to_forget

DEFAULT_WAIT_SECONDS = 10.0


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
        find_missing: FindMissing = find_missing,
        meter: Meter | None = None,
    ) -> None:
        """None for `flavour` and `driver` follows the machine. `this_host` allows the namespace of PID 1.

        `wait_seconds` bounds the wait for each lock. `sysctl_file` makes forwarding last; left out, it is
        /etc/sysctl.d/60-lbadmin.conf on the machine itself, and nothing in a namespace. `find_missing` tells
        what the kernel cannot carry; it is asked only where a document needs more than every kernel has.
        `meter` counts new connections through all that is written, and has the kernel count packets.
        """
        self._flavour = flavour
        self._driver = driver
        self._this_host = this_host
        self._wait = wait_seconds
        self._lock_directory = lock_directory or default_lock_directory()
        self._sysctl_file = sysctl_file
        self._find_missing = find_missing
        self._meter = meter
        self._selected: Selection | None = None
        self._comparer: Comparer | None = None
        self._native = NativeWatch()

    def sync(
        self,
        *,
        ruleset: Ruleset,
        document: Document,
        permit: Permit | None = None,
        jumps_first: bool = False,
    ) -> Receipt:
        """See `Kernel.sync`. Turns forwarding on, and brings remembered connections in line as well."""
        started, family, idle = time.monotonic(), ruleset.family, is_idle(ruleset)
        reconciled = Reconciled(removed=0)
        refuse_what_is_missing(
            document, family=family, flavour=self._select().flavour, find=self._find_missing
        )
        deep = look_at_depth(ruleset, document=document, flavour=self._select().flavour)
        with self._writing(family, ruleset, place_of=places_in(document.services)) as transaction:
            if permit is not None:
                permit()
            wanted = want_of(ruleset, held=self._read(ruleset) if idle else None)
            warnings = self._look_around(family, idle=idle)
            with (
                network_sets_for(ruleset) as lists,
                client_sets_for(ruleset, document=document) as sets,
            ):
                ordered = order_tables(wanted, document=Document() if idle else document)
                plans, done = self._bring_in(transaction, ordered, idle=idle, jumps_first=jumps_first)
                sets.committed = lists.committed = bool(plans)
            if wanted:
                reconciled = self._reconcile(document, family)
        return self._receipt(
            plans,
            reconciled,
            family=family,
            started=started,
            digest=digest_text(render_ruleset(ruleset)),
            steps=(*done.steps, *lists.steps, *sets.steps),
            warnings=(*deep, *warnings, *lists.warnings, *sets.warnings, *done.warnings),
        )

    def _bring_in(
        self, transaction: Transaction, wanted: Wanted, *, idle: bool, jumps_first: bool
    ) -> tuple[tuple[TablePlan, ...], Forwarded]:
        if idle:
            return (transaction.bring_in(wanted) if wanted else ()), Forwarded()
        return bring_in_forwarding(
            transaction,
            wanted,
            jumps_first=jumps_first,
            sysctl_file=self._sysctl_path(),
            counting=self._meter is not None,
        )

    def compare(self, *, ruleset: Ruleset) -> Difference:
        """See `Kernel.compare`."""
        if self._comparer is None:
            self._comparer = Comparer(flavour=self._select().flavour, native=self._native)
        return self._comparer.compare(ruleset)

    def facts(self) -> NodeFacts:
        """See `Kernel.facts`."""
        return read_facts(
            selection=self._select(),
            sysctl_path=self._sysctl_path(),
            families=self._used_families(),
            native=self._native,
        )

    def observe(self) -> Observation:
        """See `Kernel.observe`."""
        return observe_machine(flavour=self._select().flavour, native=self._native.read())

    def count_loads(self, *, services: Sequence[Service]) -> Loads:
        """See `Kernel.count_loads`."""
        return count_loads(services)

    def count_open(self, *, services: Sequence[Service]) -> Loads:
        """See `Kernel.count_open`."""
        return count_open(services)

    def remove(self) -> Receipt:
        """See `Kernel.remove`. Forwarding stays as it is: others may need it."""
        ipv4 = self._remove(Family.IPV4)
        held = read_if_any(flavour=self._select().flavour, family=Family.IPV6)
        if held is None or not holds_ours(held):
            return ipv4
        return join_receipts(ipv4, self._remove(Family.IPV6))

    def _remove(self, family: Family) -> Receipt:
        started = time.monotonic()
        with self._writing(family) as transaction:
            nothing = Ruleset(family=family, tables=())
            with (
                network_sets_for(nothing) as lists,
                client_sets_for(nothing, document=Document()) as sets,
            ):
                plans = transaction.bring_in(want_nothing())
            reconciled = self._reconcile(Document(), family)
        return self._receipt(
            plans,
            reconciled,
            family=family,
            started=started,
            steps=(*lists.steps, *sets.steps),
            warnings=(*lists.warnings, *sets.warnings),
        )

    def count_clients(self) -> Mapping[str, int]:
        """See `Kernel.count_clients`."""
        return count_clients()

    def forget_clients(self, *, service: Service, endpoint: str | None = None) -> int:
        """See `Kernel.forget_clients`."""
        ensure_own_namespace(this_host=self._this_host)
        with hold_writer_lock(directory=self._lock_directory, wait_seconds=self._wait):
            return forget_clients(sets_to_forget(service, endpoint=endpoint))

    def make_room(self) -> int:
        """See `Kernel.make_room`."""
        if not is_crowded():
            return 0
        ensure_own_namespace(this_host=self._this_host)
        with hold_writer_lock(directory=self._lock_directory, wait_seconds=self._wait):
            return make_room()

    def _read(self, ruleset: Ruleset) -> Snapshot | None:
        """None where that cannot be read, and need not be."""
        read = read_if_any if is_idle(ruleset) else read_snapshot
        return read(flavour=self._select().flavour, family=ruleset.family)

    def _select(self) -> Selection:
        if self._selected is None:
            self._selected = select(flavour=self._flavour, driver=self._driver)
        return self._selected

    @contextmanager
    def _writing(
        self, family: Family, ruleset: Ruleset | None = None, *, place_of: PlaceOf | None = None
    ) -> Iterator[Transaction]:
        ensure_own_namespace(this_host=self._this_host)
        selection = self._select()
        counted = partial(
            CountedDriver, meter=self._meter, flavour=selection.flavour, family=family, place_of=place_of
        )
        with hold_writer_lock(directory=self._lock_directory, wait_seconds=self._wait) as lock:
            yield Transaction(
                flavour=selection.flavour,
                family=family,
                driver=counted(driver=selection.make_driver(family=family, wait_seconds=self._wait)),
                put_back=counted(
                    driver=RestoreDriver(flavour=selection.flavour, family=family, wait_seconds=self._wait)
                ),
                lock=lock,
                go_on=go_on_elsewhere(ruleset, flavour=selection.flavour),
            )

    def _look_around(self, family: Family, *, idle: bool) -> tuple[str, ...]:
        """What a person is to be warned of. Refused where the other flavour holds chains of ours."""
        flavour = self._select().flavour
        found = look_at_other_flavour(flavour=flavour, family=family, unless_unreadable=idle)
        if idle:
            return ()
        return (*found, *(warn_about_advertisements() if family is Family.IPV6 else ()))

    def _used_families(self) -> tuple[Family, ...]:
        held = read_if_any(flavour=self._select().flavour, family=Family.IPV6)
        return tuple(Family) if held is not None and holds_ours(held) else (Family.IPV4,)

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
        family: Family,
        started: float,
        digest: str = "",
        steps: tuple[str, ...] = (),
        warnings: tuple[str, ...] = (),
    ) -> Receipt:
        selection = self._select()
        counted = self._meter.take_warnings() if self._meter is not None else ()
        return make_receipt(
            plans=plans,
            flavour=selection.flavour,
            driver=selection.driver_for(family),
            family=family,
            digest=digest,
            duration_ms=round((time.monotonic() - started) * 1000),
            connections_removed=reconciled.removed,
            steps=steps,
            warnings=(*warnings, *reconciled.warnings, *counted),
        )
