"""Every state, role and part through the console: buttons, the addresses behind them, actions on lists.

The expectations are those of tests/matrix.py; the workflow and the command go through them in
tests/workflow/test_matrix.py.
"""

import re
from collections.abc import Iterator
from itertools import cycle

import pytest
from django.test import Client
from django.urls import reverse

from balancer.admin.times import write_moment
from balancer.models import Service
from tests.admin.conftest import Login
from tests.cast import Site
from tests.matrix import (
    AT_A_DOOR,
    LEADS_TO,
    NEED_A_REASON,
    REASON,
    ROLES,
    STATES,
    Case,
    Rows,
    bring_change,
    cells,
    cells_at_a_door,
    make_case,
    taken_back,
    times_ahead,
)

LISTS = cycle(("admin:balancer_change_changelist", "admin:balancer_service_changelist"))
REVIEWED = ("submitted", "approved")
ACTIONS = cycle(("approve", "apply", "delete_selected", "submit", "discard"))


@pytest.mark.parametrize("state", STATES)
def test_the_console_offers_and_does_exactly_what_is_allowed_and_refuses_records_and_keeps_the_rest(
    site: Site, login: Login, state: str
) -> None:
    """Every role and button, with the parts of AT_A_DOOR; of the posts those of `cells_at_a_door`."""
    change, wrong = bring_change(site, state=state), []
    for role in ROLES:
        with taken_back():
            case = make_case(change, state=state, role=role)
            client = login(case.person)
            for part in AT_A_DOOR:
                with taken_back():
                    case.take(part)
                    expected = dict(cells(state=state, role=role, part=part))
                    posts = dict(cells_at_a_door(state=state, role=role, part=part))
                    found = (*at_the_form(client, case, expected), *by_hand(client, case, posts))
                    wrong += [f"{role} as {part}: {what}" for what in (*found, *on_list(client, case))]

    assert wrong == []


def at_the_form(client: Client, case: Case, expected: dict[str, bool]) -> Iterator[str]:
    """The page has the button of a deed exactly when the deed would succeed."""
    page = client.get(reverse("admin:balancer_change_change", args=[case.change.pk])).content.decode()
    there = set(re.findall(r'action="/balancer/change/\d+/do/([a-z-]+)/"', page))
    for deed, allowed in expected.items():
        if (deed in there) is not allowed:
            yield f"{allowed=} to {deed}, but its button says otherwise"


def by_hand(client: Client, case: Case, expected: dict[str, bool]) -> Iterator[str]:
    """A POST to the address of the deed, whether or not there is a button for it."""
    rows = Rows()
    for deed, allowed in expected.items():
        with taken_back():
            yield from posted(client, case, rows, deed=deed, allowed=allowed)


def posted(client: Client, case: Case, rows: Rows, *, deed: str, allowed: bool) -> Iterator[str]:
    refusals = case.refusals(deed)
    # With a reason the answer to a refusal is the whole page, so it is given where it is looked at.
    reason = {"reason": REASON} if deed in NEED_A_REASON and case.state in REVIEWED else {}
    times = times_ahead() if deed == "schedule" and case.state == "approved" else {}
    typed = {name: write_moment(moment) for name, moment in times.items()}
    typed |= {"emergency": REASON} if deed == "emergency" and allowed else {}
    fields = {"digest": case.change.digest, **reason, **typed}
    with rows.watched():
        answer = client.post(reverse("admin:balancer_change_do", args=[case.change.pk, deed]), fields)
    refused = case.refusals(deed) - refusals
    if allowed and (case.now().state != LEADS_TO.get(deed, case.state) or rows.are_the_same()):
        yield f"{deed} is allowed, but was not done"
    if not allowed and not rows.are_the_same():
        yield f"{deed} is not allowed, but changed something"
    if not allowed and refused != case.person.has_perm("balancer.view_change"):
        yield f"{deed} was refused, but not put on record"  # others are sent away before the workflow
    if answer.status_code not in {200, 302, 403}:
        yield f"{deed} was answered with {answer.status_code}"


def on_list(client: Client, case: Case) -> Iterator[str]:
    """What Django's admin would take for an action on the rows of a list."""
    rows, name = Rows(), next(LISTS)
    row = case.change if "change_" in name else Service.objects.get()
    fields = {"action": next(ACTIONS), "_selected_action": [row.pk], "index": 0, "post": "yes"}
    with rows.watched():
        answer = client.post(reverse(name), {**fields, "select_across": 1})
    if answer.status_code not in {200, 302, 403} or not rows.are_the_same():
        yield f"the action {fields['action']} on {name} did something"
