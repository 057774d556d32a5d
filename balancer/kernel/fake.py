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
from balancer.kernel.input_rules import find_input_path
from balancer.kernel.plan import (
    TablePlan,
    Wanted,
    describe_difference,
    find_foreign_references,
    make_plan,
    order_tables,
    want_nothing,
    want_ruleset,
)
from balancer.kernel.receipt import make_receipt
from balancer.ruleset.ir import (
    CHAIN_NAME_MAX,
    Dnat,
    Goto,
    Jump,
    Masquerade,
    Reject,
    RejectWith,
    Rule,
    Ruleset,
    Table,
)
from balancer.ruleset.parse import Snapshot, parse_save
from balancer.ruleset.render import render_ruleset

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
    ) -> None:
        """`saved` is what the machine holds at the start, as iptables-save prints it."""
        self.flavour = flavour
        self.driver = driver
        self.interfaces = interfaces
        self.snapshot: Snapshot = parse_save(saved)
        self.forwarding = False
        self.fail_next: KernelError | None = None
        self.observed = Observation()
        """What `observe` answers, but for what INPUT does: that follows from the rules."""
        self.loads: dict[str, dict[str, int]] = {}
        """What `count_loads` answers."""

    def sync(self, *, ruleset: Ruleset, document: Document, permit: Permit | None = None) -> Receipt:
        """See `Kernel.sync`."""
        if permit is not None:
            permit()
        refuse_impossible(ruleset)
        plans = self._write(order_tables(want_ruleset(ruleset), document=document), ruleset.family)
        self.forwarding = True
        return make_receipt(
            plans=plans,
            flavour=self.flavour,
            driver=self.driver,
            digest=digest_text(render_ruleset(ruleset)),
        )

    def compare(self, *, ruleset: Ruleset) -> Difference:
        """See `Kernel.compare`."""
        lines = describe_difference(
            snapshot=self.snapshot, wanted=want_ruleset(ruleset), family=ruleset.family
        )
        return Difference(in_sync=not lines, lines=lines)

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
        )

    def observe(self) -> Observation:
        """See `Kernel.observe`."""
        return replace(self.observed, inputs=(find_input_path(self.snapshot, flavour=self.flavour),))

    def count_loads(self, *, services: Sequence[Service]) -> Loads:
        """See `Kernel.count_loads`."""
        return {s.name: dict(self.loads.get(s.name, {})) for s in services}

    def remove(self) -> Receipt:
        """See `Kernel.remove`."""
        plans = self._write(want_nothing(), Family.IPV4)
        return make_receipt(plans=plans, flavour=self.flavour, driver=self.driver, digest="")

    def _write(self, wanted: Wanted, family: Family) -> tuple[TablePlan, ...]:
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            raise failure
        plans = make_plan(snapshot=self.snapshot, wanted=wanted, family=family)
        found = find_foreign_references(snapshot=self.snapshot, plans=plans)
        if found:
            raise Rejected(f"Rules that are not lbadmin's point to chains that have to go: {found[0]}.")
        for plan in plans:
            self._commit(plan)
        return plans

    def _commit(self, plan: TablePlan) -> None:
        chains = self.snapshot.table(plan.table).chains
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
    ports = rule.destination_ports
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
