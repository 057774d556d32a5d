"""A kernel in memory. Passes the same contract suite as the real one, and refuses what the kernel refuses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain as concat

from balancer.domain.codec import digest_text
from balancer.domain.observation import Observation
from balancer.domain.types import Document, Family, Service
from balancer.kernel.base import (
    Difference,
    DriverName,
    Flavour,
    Interface,
    KernelError,
    Loads,
    NodeFacts,
    Permit,
    Receipt,
    Rejected,
)
from balancer.kernel.depth import look_at_depth
from balancer.kernel.fake_sets import FakeLists, FakeSets
from balancer.kernel.idle import holds_ours, is_idle, want_of
from balancer.kernel.input_rules import find_input_path
from balancer.kernel.others import rules_before
from balancer.kernel.plan import (
    TablePlan,
    Wanted,
    describe_difference,
    find_foreign_references,
    make_plan,
    order_tables,
    want_nothing,
)
from balancer.kernel.receipt import join_receipts, make_receipt
from balancer.ruleset.ir import CHAIN_NAME_MAX, Rule, Ruleset, Table
from balancer.ruleset.parse import Snapshot, parse_save
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.targets import Dnat, Goto, Jump, Masquerade, Reject, RejectWith

EMPTY = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
"""
"""A machine without rules, as iptables-save prints it."""

_MANGLE = "*mangle\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
_HOOKS_OF_TARGET: Mapping[type, frozenset[str]] = {
    # net/netfilter/xt_nat.c, xt_MASQUERADE.c, net/ipv4/netfilter/ipt_REJECT.c: .table and .hooks
    Dnat: frozenset({"nat PREROUTING", "nat OUTPUT"}),
    Masquerade: frozenset({"nat POSTROUTING"}),
    Reject: frozenset({"filter INPUT", "filter FORWARD", "filter OUTPUT"}),
}


class FakeKernel:
    """Implements `Kernel`. `fail_next` is raised by the next write, which then changes nothing."""

    def __init__(
        self,
        *,
        flavour: Flavour = Flavour.NFT,
        driver: DriverName = DriverName.IPTABLES_RESTORE,
        interfaces: tuple[Interface, ...] = (),
        saved: str = EMPTY,
        saved_ipv6: str | None = EMPTY,
    ) -> None:
        """`saved` is what the machine holds at the start, as iptables-save prints it; `saved_ipv6` the same
        of ip6tables, None for a machine that has none."""
        self.flavour = flavour
        self.driver = driver
        self.interfaces = interfaces
        self.snapshot: Snapshot = parse_save(saved)
        self.snapshot_ipv6 = None if saved_ipv6 is None else parse_save(saved_ipv6)
        self.forwarding = False
        self.forwarding_ipv6 = False
        self.fail_next: KernelError | None = None
        self.observed = Observation()
        """What `observe` answers, but for what INPUT does: that follows from the rules."""
        self.sets = FakeSets()
        self.lists = FakeLists()
        self.programs: tuple[str, ...] = ()
        """What `compare` says is at work on the machine."""
        self.loads: dict[str, dict[str, int]] = {}
        """What `count_loads` answers."""
        self.open: dict[str, dict[str, int]] = {}
        """What `count_open` answers."""

    def sync(
        self,
        *,
        ruleset: Ruleset,
        document: Document,
        permit: Permit | None = None,
        jumps_first: bool = False,
    ) -> Receipt:
        """See `Kernel.sync`."""
        if permit is not None:
            permit()
        refuse_impossible(ruleset)
        deep = look_at_depth(ruleset, document=document, flavour=self.flavour)
        wanted = want_of(ruleset, held=self._held(ruleset.family))
        idle = is_idle(ruleset)
        ordered = order_tables(wanted, document=Document() if idle else document)
        plans = self._write(ordered, ruleset.family, jumps_first=jumps_first) if ordered else ()
        if ruleset.family == Family.IPV4:
            self.forwarding = True
        elif not idle:
            self.forwarding_ipv6 = True
        return make_receipt(
            plans=plans,
            flavour=self.flavour,
            driver=self.driver,
            family=ruleset.family,
            digest=digest_text(render_ruleset(ruleset)),
            steps=(*self.lists.follow(ruleset), *self.sets.follow(ruleset, document=document)),
            warnings=deep,
        )

    def compare(self, *, ruleset: Ruleset) -> Difference:
        """See `Kernel.compare`."""
        wanted = want_of(ruleset, held=self._held(ruleset.family))
        if not wanted:
            return Difference(in_sync=True)
        snapshot = self._readable(ruleset.family)
        lines = (
            *describe_difference(snapshot=snapshot, wanted=wanted, family=ruleset.family),
            *self.lists.compare(ruleset),
            *self._settings(ruleset),
        )
        before = rules_before(snapshot, family=ruleset.family)
        return Difference(in_sync=not lines, lines=lines, before=before, programs=self.programs)

    def facts(self) -> NodeFacts:
        """See `Kernel.facts`."""
        return NodeFacts(
            flavour=self.flavour,
            driver=self.driver,
            driver_reason="this kernel is kept in memory",
            kernel="fake",
            iptables_version="fake",
            interfaces=self.interfaces,
            forwarding=self.forwarding,
            forwarding_persisted=self.forwarding,
            forwarding_ipv6=None if self.snapshot_ipv6 is None else self.forwarding_ipv6,
            forwarding_ipv6_persisted=self.forwarding_ipv6,
        )

    def observe(self) -> Observation:
        """See `Kernel.observe`."""
        inputs = tuple(
            find_input_path(held, flavour=self.flavour, family=family)
            for family in Family
            if (held := self._held(family)) is not None
        )
        return replace(self.observed, inputs=inputs)

    def count_loads(self, *, services: Sequence[Service]) -> Loads:
        """See `Kernel.count_loads`."""
        return {s.name: dict(self.loads.get(s.name, {})) for s in services}

    def count_open(self, *, services: Sequence[Service]) -> Loads:
        """See `Kernel.count_open`."""
        return {s.name: dict(self.open.get(s.name, {})) for s in services}

    def remove(self) -> Receipt:
        """See `Kernel.remove`."""
        ipv4 = self._remove(Family.IPV4)
        held = self._held(Family.IPV6)
        if held is None or not holds_ours(held):
            return ipv4
        return join_receipts(ipv4, self._remove(Family.IPV6))

    def _remove(self, family: Family) -> Receipt:
        plans = self._write(want_nothing(), family)
        nothing = Ruleset(family=family, tables=())
        steps = (*self.lists.follow(nothing), *self.sets.follow(nothing, document=Document()))
        return make_receipt(
            plans=plans, flavour=self.flavour, driver=self.driver, family=family, digest="", steps=steps
        )

    def count_clients(self) -> Mapping[str, int]:
        """See `Kernel.count_clients`."""
        return self.sets.count()

    def make_room(self) -> int:
        """See `Kernel.make_room`. Sets in memory are never crowded."""
        return 0

    def forget_clients(self, *, service: Service, endpoint: str | None = None) -> int:
        """See `Kernel.forget_clients`."""
        self._fail_if_told()
        return self.sets.forget(service, endpoint=endpoint)

    def _held(self, family: Family) -> Snapshot | None:
        return self.snapshot if family == Family.IPV4 else self.snapshot_ipv6

    def _readable(self, family: Family) -> Snapshot:
        held = self._held(family)
        if held is None:
            raise Rejected("The program ip6tables is not installed. Nothing was changed.")
        return held

    def _settings(self, ruleset: Ruleset) -> tuple[str, ...]:
        if is_idle(ruleset) or not any(table.chains for table in ruleset.tables):
            return ()
        if ruleset.family == Family.IPV4:
            return () if self.forwarding else ("+ sysctl: net.ipv4.ip_forward=1",)
        return () if self.forwarding_ipv6 else ("+ sysctl: net.ipv6.conf.all.forwarding=1",)

    def _write(self, wanted: Wanted, family: Family, *, jumps_first: bool = False) -> tuple[TablePlan, ...]:
        self._fail_if_told()
        snapshot = self._readable(family)
        snapshot.tables.setdefault("mangle", parse_save(_MANGLE).table("mangle"))
        plans = make_plan(snapshot=snapshot, wanted=wanted, family=family, jumps_first=jumps_first)
        found = find_foreign_references(snapshot=snapshot, plans=plans)
        if found:
            raise Rejected(f"Rules that are not lbadmin's point to chains that have to go: {found[0]}.")
        for plan in plans:
            self._commit(plan, chains=snapshot.table(plan.table).chains)
        return plans

    def _fail_if_told(self) -> None:
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure

    def _commit(self, plan: TablePlan, *, chains: dict[str, tuple[str, ...]]) -> None:
        chains.update(plan.write)
        for name in plan.delete:
            del chains[name]
        for jump in plan.jumps:
            rules = [rule for rule in chains.get(jump.builtin, ()) if rule != f"-j {jump.chain}"]
            if jump.insert_at is not None:
                rules.insert(jump.insert_at - 1, f"-j {jump.chain}")
            chains[jump.builtin] = tuple(rules)


def refuse_impossible(ruleset: Ruleset) -> None:
    """Raises Rejected for what no kernel takes: missing chains, loops, targets where they cannot be."""
    for table in ruleset.tables:
        for name in table.chains:
            if len(name) > CHAIN_NAME_MAX:
                raise Rejected(f"The chain name {name} is longer than {CHAIN_NAME_MAX} characters.")
        for rule in concat.from_iterable(table.chains.values()):
            _refuse_rule(rule)
        for builtin, chain in table.jumps:
            _walk(table, f"{table.name} {builtin}", chain, ())


def _refuse_rule(rule: Rule) -> None:
    for ports in (rule.source_ports, rule.destination_ports):
        if ports is not None and (rule.protocol is None or not 0 <= ports.first <= ports.last <= 65535):
            raise Rejected(f"Ports {ports.first} to {ports.last} cannot be matched.")
    if rule.target == Reject(RejectWith.TCP_RESET) and rule.protocol != "tcp":
        raise Rejected("Only TCP can be reset.")


def _walk(table: Table, hook: str, name: str, above: Sequence[str]) -> None:
    if name in above:
        raise Rejected(f"The chains of table {table.name} form a loop through {name}.")
    if name not in table.chains:
        raise Rejected(f"Table {table.name} has no chain {name}.")
    for rule in table.chains[name]:
        match rule.target:
            case Jump(chain) | Goto(chain):
                _walk(table, hook, chain, (*above, name))
            case target if hook not in _HOOKS_OF_TARGET.get(type(target), {hook}):
                raise Rejected(f"{type(target).__name__} cannot be used in {hook}.")
