"""Every state, role and part, through the workflow itself and through the command.

The pages and addresses of the console go through the same cells in tests/admin/test_matrix.py.
"""

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from balancer.models import AuditEvent, Cluster
from balancer.workflow.approvals import approve_change, reject_change, request_changes
from balancer.workflow.deployments import apply_change
from balancer.workflow.emergencies import apply_in_emergency
from balancer.workflow.errors import Refused
from balancer.workflow.rehearsals import request_rehearsal
from balancer.workflow.schedules import schedule_change
from balancer.workflow.submissions import discard_change, submit_change, withdraw_change
from tests.cast import PASSWORD, Site
from tests.matrix import (
    AT_A_DOOR,
    DEEDS,
    LEADS_TO,
    PARTS,
    REASON,
    ROLES,
    STATES,
    Case,
    Rows,
    bring_change,
    cells,
    cells_at_a_door,
    is_allowed,
    make_case,
    taken_back,
    times_ahead,
)

Door = Callable[[Case, str], bool]
"""Tries the deed; whether it was done. A refusal is a sentence."""
Cells = Callable[..., Iterator[tuple[str, bool]]]


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
DOORS: Mapping[str, tuple[Door, tuple[str, ...], Cells]] = {
    "workflow": (by_workflow, PARTS, cells),
    "command": (by_command, AT_A_DOOR, cells_at_a_door),
}


def assert_sentence(text: str) -> None:
    assert text
    assert text.endswith(".")


@pytest.mark.parametrize("state", STATES)
def test_exactly_what_is_allowed_succeeds_and_the_rest_is_refused_recorded_and_changes_nothing(
    site: Site, state: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every role, part and deed through the workflow; through the command those of `cells_at_a_door`."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # typed 250 times
    monkeypatch.setattr(sys, "stdin", Typing())
    change, wrong = bring_change(site, state=state), []
    for role in ROLES:
        with taken_back():
            case = make_case(change, state=state, role=role, password=PASSWORD)
            for part in PARTS:
                with taken_back():
                    case.take(part)
                    wrong += [f"{role} as {part}: {what}" for what in through_all_doors(case, role, part)]

    assert wrong == []


def through_all_doors(case: Case, role: str, part: str) -> Iterator[str]:
    rows = Rows()
    for door, (attempt, parts, cells_of) in DOORS.items():
        for deed, allowed in cells_of(state=case.state, role=role, part=part) if part in parts else ():
            if not behaves(case, attempt, deed=deed, allowed=allowed, rows=rows):
                yield f"{deed} through the {door} when {case.state}: {allowed=}"


def behaves(case: Case, attempt: Door, *, deed: str, allowed: bool, rows: Rows) -> bool:
    """Tries it and takes it back."""
    refusals = case.refusals(deed)
    with taken_back():
        with rows.watched():
            done = attempt(case, deed)
        refused = case.refusals(deed) - refusals
        led_where_it_should = case.now().state == LEADS_TO.get(deed, case.state)
        as_it_should = led_where_it_should if done else rows.are_the_same()
    return done is allowed and as_it_should and refused == int(not done)


class Typing(io.StringIO):
    """A keyboard at which the password is typed as often as it is asked for."""

    def readline(self, size: int | None = -1, /) -> str:
        return f"{PASSWORD}\n"


def test_a_row_that_is_written_is_noticed_unless_it_is_put_back(site: Site) -> None:
    """The matrix rests on it."""
    rows = Rows()
    for name, same in (("other", False), ("edge", True)):
        with rows.watched():
            Cluster.objects.filter(pk=site.cluster.pk).update(name=name)
        assert rows.are_the_same() is same
    with rows.watched():
        site.cluster.nodes.filter(name="lb2").delete()
    assert not rows.are_the_same()


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
    change = bring_change(site, state="submitted")
    case = make_case(change, state="submitted", role="Approver", password=PASSWORD)
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
