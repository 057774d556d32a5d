"""The plan is pure: what is there and what is wanted become the fewest edits."""

from balancer.domain.types import Family
from balancer.kernel.plan import (
    JumpEdit,
    TablePlan,
    WantedTable,
    find_foreign_references,
    make_plan,
    want_nothing,
    want_own_part,
)
from balancer.kernel.restore import render_plan
from balancer.ruleset.parse import Snapshot, parse_save, tidy_save_text

WANTED = {
    "filter": WantedTable(
        chains={"LB-A": ("-j ACCEPT",), "LB-B": ("-j DROP",)}, jumps=(("INPUT", "LB-A"), ("FORWARD", "LB-B"))
    )
}


def saved(*lines: str) -> Snapshot:
    text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", *lines, "COMMIT", ""])
    return parse_save(text)


def plan(snapshot: Snapshot) -> tuple[TablePlan, ...]:
    return make_plan(snapshot=snapshot, wanted=WANTED, family=Family.IPV4)


def test_what_is_right_needs_no_plan() -> None:
    right = saved("-A INPUT -j LB-A", "-A FORWARD -j LB-B", "-A LB-A -j ACCEPT", "-A LB-B -j DROP")
    assert plan(right) == ()


def test_an_empty_table_gets_everything() -> None:
    (edits,) = plan(saved())
    assert edits.create == ("LB-A", "LB-B")
    assert dict(edits.write) == WANTED["filter"].chains
    assert edits.jumps == (
        JumpEdit(builtin="FORWARD", chain="LB-B", insert_at=1),
        JumpEdit(builtin="INPUT", chain="LB-A", insert_at=1),
    )


def test_only_the_chain_that_differs_is_written_and_one_too_many_is_deleted() -> None:
    (edits,) = plan(
        saved(
            "-A INPUT -j LB-A",
            "-A FORWARD -j LB-B",
            "-A LB-A -j ACCEPT",
            "-A LB-B -j ACCEPT",
            "-A LB-C -j DROP",
        )
    )
    assert (edits.create, dict(edits.write), edits.delete) == ((), {"LB-B": ("-j DROP",)}, ("LB-C",))
    assert edits.jumps == ()


def test_a_conditional_jump_of_others_is_not_taken_for_ours() -> None:
    (edits,) = plan(
        saved("-A INPUT -i eth0 -j LB-A", "-A FORWARD -j LB-B", "-A LB-A -j ACCEPT", "-A LB-B -j DROP")
    )
    assert edits.jumps == (JumpEdit(builtin="INPUT", chain="LB-A", insert_at=1),)


def test_a_plan_as_text_makes_chains_first_and_deletes_them_last() -> None:
    edits = TablePlan(
        table="filter",
        write={"LB-A": ("-j LB-B",), "LB-B": ()},
        delete=("LB-C",),
        jumps=(JumpEdit(builtin="INPUT", chain="LB-A", drop=2, insert_at=3),),
    )
    assert render_plan(edits).splitlines() == [
        "*filter",
        ":LB-B - [0:0]",
        ":LB-A - [0:0]",
        "-A LB-A -j LB-B",
        "-D INPUT -j LB-A",
        "-D INPUT -j LB-A",
        "-I INPUT 3 -j LB-A",
        "-F LB-C",
        "-X LB-C",
        "COMMIT",
    ]


def test_every_chain_is_made_before_the_rules_that_lead_to_it() -> None:
    """And the middle one of them first: iptables-nft-save takes that for the pivot of its quicksort."""
    chains = {
        f"LB-{i:04}": (f"-g LB-{(i * 7) % 1000:04}",) if i % 1000 > i * 7 % 1000 else () for i in range(1000)
    }
    lines = render_plan(TablePlan(table="nat", write=chains)).splitlines()
    made = {line[1:].split()[0]: at for at, line in enumerate(lines) if line.startswith(":")}
    assert len(made) == len(lines) - 2 - sum(map(len, chains.values())) == 1000
    assert min(made, key=lambda chain: made[chain]) == "LB-0500"
    for at, line in enumerate(lines):
        if line.startswith("-A "):
            _, chain, _, to = line.split()
            assert made[to] < at
            assert made[chain] < at


def test_a_plan_back_to_our_own_part_undoes_a_plan() -> None:
    before = saved("-A INPUT -j LB-OLD", "-A LB-OLD -p tcp -m limit --limit 5/sec -j ACCEPT")
    after = saved("-A INPUT -j LB-A", "-A LB-A -j ACCEPT")
    (back,) = make_plan(snapshot=after, wanted=want_own_part(before), family=Family.IPV4)
    assert dict(back.write) == {"LB-OLD": ("-p tcp -m limit --limit 5/sec -j ACCEPT",)}
    assert back.delete == ("LB-A",)
    assert {(jump.chain, jump.drop, jump.insert_at) for jump in back.jumps} == {
        ("LB-A", 1, None),
        ("LB-OLD", 0, 1),
    }


def test_a_name_of_ours_in_a_quoted_text_is_no_reference_to_it() -> None:
    snapshot = saved(
        ":MINE - [0:0]",
        "-A LB-A -j ACCEPT",
        '-A MINE -j LOG --log-prefix "see -j LB-A "',
        '-A MINE -m comment --comment "say \\" -g LB-A" -j ACCEPT',
    )
    plans = make_plan(snapshot=snapshot, wanted=want_nothing(), family=Family.IPV4)
    assert plans[0].delete == ("LB-A",)
    assert find_foreign_references(snapshot=snapshot, plans=plans) == ()


def test_line_breaks_in_quoted_text_are_tidied_away_and_nothing_else_is() -> None:
    text = '-A X -m comment --comment "a\n-A LB-S-web \\" \u2028 -j DROP" -j ACCEPT\n-A Y -j DROP\n'
    assert tidy_save_text(text) == (
        '-A X -m comment --comment "a?-A LB-S-web \\" ? -j DROP" -j ACCEPT\n-A Y -j DROP\n'
    )
