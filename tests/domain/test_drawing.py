"""The picture of the states is the table of the states."""

import re

from balancer.domain.drawing import draw_changes, draw_jobs, draw_rehearsals
from balancer.domain.lifecycle import (
    CHANGE_CLOSED,
    CHANGE_TRANSITIONS,
    JOB_ENDED,
    JOB_TRANSITIONS,
    REHEARSAL_ENDED,
    REHEARSAL_TRANSITIONS,
)

Arrows = set[tuple[str, str, str]]


def arrows_of(text: str) -> Arrows:
    """(from, to, deed) of every labelled arrow, names as in the tables."""
    found = re.findall(r"^    (\w+) --> (\w+): ([\w-]+)$", text, re.MULTILINE)
    return {(here.replace("_", "-"), there.replace("_", "-"), deed) for here, there, deed in found}


def test_every_transition_of_a_change_is_an_arrow_and_no_other_is() -> None:
    expected = {(str(here), str(there), str(deed)) for (here, deed), there in CHANGE_TRANSITIONS.items()}
    assert arrows_of(draw_changes()) == expected


def test_every_transition_of_a_job_is_an_arrow_and_no_other_is() -> None:
    expected = {(str(here), str(there), str(deed)) for (here, deed), there in JOB_TRANSITIONS.items()}
    assert arrows_of(draw_jobs()) == expected


def test_every_transition_of_a_rehearsal_is_an_arrow_and_no_other_is() -> None:
    expected = {(str(here), str(there), str(deed)) for (here, deed), there in REHEARSAL_TRANSITIONS.items()}
    assert arrows_of(draw_rehearsals()) == expected


def test_a_picture_begins_where_the_thing_begins_and_ends_where_nothing_is_left_to_do() -> None:
    for text, start, ends in (
        (draw_changes(), "draft", CHANGE_CLOSED),
        (draw_jobs(), "queued", JOB_ENDED),
        (draw_rehearsals(), "queued", REHEARSAL_ENDED),
    ):
        assert re.findall(r"\[\*\] --> (\w+)", text) == [start]
        assert set(re.findall(r"(\w+) --> \[\*\]", text)) == set(ends)


def test_names_are_such_that_mermaid_takes_them_for_names() -> None:
    """A hyphen in the name of a state would be read as the beginning of an arrow."""
    for line in (draw_changes() + draw_jobs() + draw_rehearsals()).splitlines():
        if "-->" in line:
            ends = line.partition(":")[0].split("-->")
            assert all(re.fullmatch(r"\w+|\[\*\]", end.strip()) for end in ends)
