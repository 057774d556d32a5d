"""The page of behaviours says what is tried, and nothing else."""

from tests.kernel.behaviours.table import CELLS, find_tests, kept_table, make_table, title_of

REWRITE = "Write it anew: .venv/bin/python -m tests.kernel.behaviours.table"


def test_the_kept_table_names_every_behaviour_that_is_tried_and_where() -> None:
    assert kept_table() == make_table(), REWRITE


def test_a_run_shows_what_failed_and_leaves_out_what_did_not_run() -> None:
    name, _ = next(find_tests())
    table = make_table({name: {"legacy-ipv4": "yes", "nft-ipv6": "FAILED"}})
    assert table.splitlines()[2:] == [f"| {title_of(name)} | yes |  |  | FAILED |"]


def test_every_behaviour_has_a_sentence_of_its_own() -> None:
    titles = [title_of(name) for name, _ in find_tests()]
    assert len(set(titles)) == len(titles) >= 40
    assert len(CELLS) == 4
