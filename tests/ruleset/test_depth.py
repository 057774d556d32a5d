"""Through how many chains a connection is led."""

from balancer.domain.health_overlay import HealthOverlay, with_health
from balancer.domain.types import Document, Family
from balancer.ruleset.compile import compile_document
from balancer.ruleset.depth import deepest_way
from balancer.ruleset.ir import Rule, Ruleset, Table, TableName
from balancer.ruleset.targets import Goto
from tests.documents import row_of_stand_ins


def down(found: Document) -> Document:
    """All backends but those of the last."""
    every = {s.name: tuple(b.endpoint for b in s.backends) for s in found.services if s.all_down_service}
    return with_health(found, HealthOverlay(down=every))


def test_the_way_at_worst_is_the_way_once_all_are_down_and_names_every_chain_on_it() -> None:
    found = row_of_stand_ins(30)
    up, gone = compile_document(found), compile_document(down(found))
    assert len(deepest_way(up)) < 12
    assert deepest_way(up, stand_ins=found.services) == deepest_way(gone)
    assert [c for c in deepest_way(gone) if c.startswith("LB-S-")] == [f"LB-S-s{i:04}" for i in range(30)]


def test_thousands_that_stand_in_for_one_another_are_counted_too() -> None:
    found = row_of_stand_ins(3000)
    assert len(deepest_way(compile_document(found), stand_ins=found.services)) > 3000


def test_a_loop_ends() -> None:
    chains = {"LB-A": (Rule(target=Goto("LB-B")),), "LB-B": (Rule(target=Goto("LB-A")),)}
    table = Table(TableName.NAT, chains, (("PREROUTING", "LB-A"),))
    assert deepest_way(Ruleset(family=Family.IPV4, tables=(table,)))[0] == "PREROUTING"
