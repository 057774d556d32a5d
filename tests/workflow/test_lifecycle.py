"""The tables of states, read as sentences."""

import pytest

from balancer.domain.lifecycle import (
    CHANGE_CLOSED,
    CHANGE_EDITABLE,
    CHANGE_OPEN,
    CHANGE_REVIEWED,
    CHANGE_TRANSITIONS,
    JOB_ACTIVE,
    JOB_ENDED,
    REHEARSAL_ACTIVE,
    REHEARSAL_ENDED,
    REHEARSAL_TRANSITIONS,
    ChangeDeed,
    ChangeState,
    JobDeed,
    JobState,
    RehearsalDeed,
    RehearsalState,
    deeds_from,
    next_job_state,
    next_rehearsal_state,
    next_state,
    states_before,
)

PATH_TO_LIVE = [
    (ChangeState.DRAFT, ChangeDeed.SUBMIT, ChangeState.SUBMITTED),
    (ChangeState.SUBMITTED, ChangeDeed.APPROVE, ChangeState.APPROVED),
    (ChangeState.APPROVED, ChangeDeed.APPLY, ChangeState.APPLYING),
    (ChangeState.APPLYING, ChangeDeed.FINISH, ChangeState.APPLIED),
]
LATE_WAYS = {
    ChangeDeed.SUBMIT: {ChangeState.CHANGES_REQUESTED},
    ChangeDeed.APPROVE: {ChangeState.APPROVED, ChangeState.FAILED},
    ChangeDeed.APPLY: {ChangeState.FAILED},
}
"""A change that was sent back or failed takes a step again, and an approval that expired is given again."""


@pytest.mark.parametrize(("state", "deed", "after"), PATH_TO_LIVE)
def test_a_change_goes_from_draft_to_applied_one_step_at_a_time(
    state: ChangeState, deed: ChangeDeed, after: ChangeState
) -> None:
    assert next_state(state=state, deed=deed) is after
    assert states_before(deed) - LATE_WAYS.get(deed, frozenset()) == {state}


def test_only_a_draft_and_what_was_sent_back_can_be_edited_and_are_drafts_afterwards() -> None:
    assert states_before(ChangeDeed.EDIT) == {ChangeState.DRAFT, ChangeState.CHANGES_REQUESTED}
    assert {next_state(state=s, deed=ChangeDeed.EDIT) for s in CHANGE_EDITABLE} == {ChangeState.DRAFT}


def test_what_has_to_be_reviewed_again_is_neither_approved_nor_applied() -> None:
    assert {
        (start, after) for (start, deed), after in CHANGE_TRANSITIONS.items() if deed is ChangeDeed.RECONSIDER
    } == {(state, ChangeState.SUBMITTED) for state in CHANGE_REVIEWED}


def test_nothing_leads_out_of_a_closed_change() -> None:
    assert {state: deeds_from(state) for state in CHANGE_CLOSED} == {
        state: frozenset() for state in CHANGE_CLOSED
    }


def test_every_open_state_leads_to_a_closed_one() -> None:
    reached = set(CHANGE_CLOSED)
    for _ in CHANGE_TRANSITIONS:
        reached |= {start for (start, _), after in CHANGE_TRANSITIONS.items() if after in reached}

    assert reached == set(ChangeState) == CHANGE_OPEN | CHANGE_CLOSED


def test_only_an_approval_leads_to_approved_and_only_an_approved_or_failed_change_is_applied() -> None:
    to_approved = {
        (start, deed) for (start, deed), after in CHANGE_TRANSITIONS.items() if after is ChangeState.APPROVED
    }
    assert {deed for start, deed in to_approved if start is not ChangeState.APPROVED} == {ChangeDeed.APPROVE}
    assert states_before(ChangeDeed.APPLY) == {ChangeState.APPROVED, ChangeState.FAILED}


def test_a_failed_change_was_approved_before() -> None:
    assert states_before(ChangeDeed.FAIL) == {ChangeState.APPLYING}


def test_a_job_that_has_ended_stays_as_it_is() -> None:
    assert [(s, d) for s in JOB_ENDED for d in JobDeed if next_job_state(state=s, deed=d)] == []
    assert set(JobState) == JOB_ENDED | JOB_ACTIVE


def test_a_rehearsal_is_judged_by_a_worker_that_claimed_it_and_what_has_ended_stays_as_it_is() -> None:
    over = [(s, d) for s in REHEARSAL_ENDED for d in RehearsalDeed if next_rehearsal_state(state=s, deed=d)]
    assert over == []
    assert set(RehearsalState) == REHEARSAL_ENDED | REHEARSAL_ACTIVE
    judging = {RehearsalDeed.PASS, RehearsalDeed.FAIL}
    assert {state for (state, deed) in REHEARSAL_TRANSITIONS if deed in judging} == {RehearsalState.RUNNING}
