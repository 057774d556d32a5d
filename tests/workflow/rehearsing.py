"""A cluster whose policy asks for rehearsals, and workers that make them in memory."""

from dataclasses import dataclass, field
from datetime import timedelta

from django.utils import timezone

from balancer.domain.lifecycle import RehearsalState
from balancer.lab.fake import FakeRehearsals
from balancer.models import Change, Node, Rehearsal
from balancer.ruleset.ir import Ruleset
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.nodes import reconcile_node
from balancer.workflow.rehearsing import run_rehearsal
from tests.cast import Site, let_rehearsals_be
from tests.lab.spoil import spoil_rules, wrong_share


@dataclass
class Stage:
    """The site, with `lb1` legacy and `lb2` nft, both seen just now."""

    site: Site
    ways: dict[str, FakeRehearsals] = field(default_factory=dict)

    def run(self, rehearsal: Rehearsal, *, by: str = "", identity: str = "test:1:1") -> RehearsalState | None:
        name = by or rehearsal.node.name
        return run_rehearsal(
            rehearsal_id=str(rehearsal.pk), node_name=name, rehearse=self.ways[name], identity=identity
        )

    def run_all(self, change: Change) -> None:
        for rehearsal in waiting(change):
            self.run(rehearsal)

    def tick(self, name: str, *, later: float = 5) -> None:
        reconcile_node(
            node_name=name,
            kernel=self.site.kernels[name],
            guard=self.site.guard(name),
            memory=NodeMemory(facts_due=timezone.now() + timedelta(hours=1)),
            identity="test:1:1",
            rehearse=self.ways[name],
            clock=lambda: timezone.now() + timedelta(seconds=later),
        )


def make_stage(site: Site) -> Stage:
    let_rehearsals_be(site.cluster, rehearsal="required")
    kinds = {"lb1": ("legacy", "python-iptables"), "lb2": ("nft", "iptables-restore")}
    for name, (flavour, driver) in kinds.items():
        see(name, flavour=flavour, driver=driver)
    return Stage(site, {name: FakeRehearsals(flavour=f, driver=d) for name, (f, d) in kinds.items()})


def see(name: str, *, flavour: str, driver: str, ago: float = 0) -> None:
    """The worker of the node was there and told what the node is."""
    seen = timezone.now() - timedelta(seconds=ago)
    facts = {"flavour": flavour, "driver": driver}
    Node.objects.filter(name=name).update(facts=facts, facts_at=seen, last_seen=seen)


def waiting(change: Change) -> list[Rehearsal]:
    found = Rehearsal.objects.filter(change=change, state="queued").select_related("node")
    return list(found.order_by("node__name"))


def states(change: Change) -> list[tuple[str, str]]:
    """(node, state) of every rehearsal there was, in the order in which they were asked for."""
    found = Rehearsal.objects.filter(change=change).order_by("queued_at", "node__name")
    return list(found.values_list("node__name", "state"))


def spoil_shares(ruleset: Ruleset) -> Ruleset:
    """As a compiler would that counts the article's way."""
    return spoil_rules(ruleset, wrong_share)
