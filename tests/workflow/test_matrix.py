"""Every state, role and part, through the workflow itself and through the command.

The pages and addresses of the console go through the same cells in tests/admin/test_matrix.py.
"""

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from balancer.models import AuditEvent
from balancer.workflow.approvals import approve_change, reject_change, request_changes
from balancer.workflow.deployments import apply_change
from balancer.workflow.emergencies import apply_in_emergency
from balancer.workflow.errors import Refused
from balancer.workflow.rehearsals import request_rehearsal
from balancer.workflow.schedules import schedule_change
from balancer.workflow.submissions import discard_change, submit_change, withdraw_change
from tests.cast import PASSWORD, Site
from tests.matrix import (
    DEEDS,
    LEADS_TO,
    PARTS,
    REASON,
    ROLES,
    STATES,
    Case,
    all_rows,
    cells,
    is_allowed,
    make_case,
    times_ahead,
)

Door = Callable[[Case, str], bool]
"""Tries the deed; whether it was done. A refusal is a sentence."""


def by_workflow(case: Case, deed: str) -> bool:
    change = case.now()
    arguments: dict[str, Any] = {"actor": case.person, "change": change}
    if deed in {"approve", "reject", "request-changes"}:
        arguments |= {"digest": change.digest, "reason": REASON}
    if deed == "emergency":
        arguments["reason"] = REASON
    if deed in {"approve", "emergency"}:
        arguments["password_at"] = timezone.now()
    if deed == "schedule":
        arguments |= times_ahead()
    try:
        FUNCTIONS[deed](**arguments)
    except Refused as refusal:
        assert_sentence(refusal.message)
        return False
    return True


def by_command(case: Case, deed: str) -> bool:
    change = case.now()
    options = ["--as", case.person.get_username(), "--digest", change.digest, "--reason", REASON]
    if deed in {"approve", "emergency"}:
        options.append("--password-stdin")
    if deed == "schedule":
        start, end = times_ahead().values()
        options += ["--from", start.isoformat(), "--until", end.isoformat()]
    try:
        call_command("change", deed, str(change.pk), *options, stdout=io.StringIO())
    except CommandError as error:
        assert_sentence(str(error))
        return False
    return True


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "submit": submit_change,
    "withdraw": withdraw_change,
    "approve": approve_change,
    "reject": reject_change,
    "request-changes": request_changes,
    "apply": apply_change,
    "schedule": schedule_change,
    "discard": discard_change,
    "emergency": apply_in_emergency,
    "rehearse": request_rehearsal,
}
DOORS: Mapping[str, Door] = {"workflow": by_workflow, "command": by_command}


def assert_sentence(text: str) -> None:
    assert text
    assert text.endswith(".")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("state", STATES)
def test_exactly_what_is_allowed_succeeds_and_the_rest_is_refused_recorded_and_changes_nothing(
    site: Site, state: str, role: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # typed 250 times
    case = make_case(site, state=state, role=role, password=PASSWORD)
    wrong = []
    for part in PARTS:
        beginning = transaction.savepoint()
        case.take(part)
        before = all_rows()
        for door, attempt in DOORS.items():
            for deed, allowed in cells(state=state, role=role, part=part):
                monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n"))
                if not behaves(case, attempt, deed=deed, allowed=allowed, before=before):
                    wrong.append(f"{deed} by {role} as {part} through the {door}: {allowed=}")
        transaction.savepoint_rollback(beginning)

    assert wrong == []


def behaves(case: Case, attempt: Door, *, deed: str, allowed: bool, before: dict[str, Any]) -> bool:
    """Tries it and takes it back."""
    start, refusals = transaction.savepoint(), case.refusals(deed)
    done = attempt(case, deed)
    if done:
        as_it_should = case.now().state == LEADS_TO.get(deed, case.state) and case.refusals(deed) == refusals
    else:
        as_it_should = all_rows() == before and case.refusals(deed) == refusals + 1
    transaction.savepoint_rollback(start)
    return done is allowed and as_it_should


def test_the_expectations_allow_nobody_to_approve_what_they_wrote() -> None:
    allowed = {
        (role, part)
        for state in STATES
        for role in ROLES
        for part in PARTS
        if is_allowed(deed="approve", state=state, role=role, part=part)
    }

    assert allowed == {(role, "stranger") for role in ("Approver", "Administrator", "superuser")}


def test_every_deed_is_allowed_to_somebody_and_forbidden_to_somebody_in_every_state_it_starts_from() -> None:
    for deed in DEEDS:
        starts = [
            s
            for s in STATES
            if any(is_allowed(deed=deed, state=s, role=r, part=p) for r in ROLES for p in PARTS)
        ]
        assert starts
        for state in starts:
            assert not all(is_allowed(deed=deed, state=state, role=r, part=p) for r in ROLES for p in PARTS)


def test_a_wrong_password_at_the_command_approves_nothing_and_is_on_record(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(site, state="submitted", role="Approver", password=PASSWORD)
    options = ["--as", "person", "--digest", case.change.digest]

    monkeypatch.setattr(sys, "stdin", io.StringIO("wrong\n"))
    with pytest.raises(CommandError, match="not your password"):
        call_command("change", "approve", str(case.change.pk), *options, "--password-stdin")
    with pytest.raises(CommandError, match="password"):
        call_command("change", "approve", str(case.change.pk), *options)

    assert case.now().votes.count() == 1
    assert AuditEvent.objects.filter(action="password.proved.refused", actor_name="person").count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["approve", "999999", "--as", "approver"], "There is no change #999999."),
        (["approve", "1", "--as", "nobody"], "There is no account named 'nobody'."),
        (["finish", "1", "--as", "approver"], "invalid choice"),
    ],
)
def test_a_command_that_names_nothing_says_so(site: Site, arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("change", *arguments)
