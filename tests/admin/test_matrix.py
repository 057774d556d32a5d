"""Every state, role and part through the console: buttons, the addresses behind them, actions on lists.

The expectations are those of tests/matrix.py; the workflow and the command go through them in
tests/workflow/test_matrix.py.
"""

import re
from collections.abc import Iterator
from itertools import cycle

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from balancer.models import Service
from tests.admin.conftest import Login
from tests.cast import Site
from tests.matrix import (
    LEADS_TO,
    NEED_A_REASON,
    PARTS,
    REASON,
    ROLES,
    STATES,
    Case,
    all_rows,
    cells,
    make_case,
)

LISTS = cycle(("admin:balancer_change_changelist", "admin:balancer_service_changelist"))
REVIEWED = ("submitted", "approved")
ACTIONS = cycle(("approve", "apply", "delete_selected", "submit", "discard"))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("state", STATES)
def test_the_console_offers_and_does_exactly_what_is_allowed_and_refuses_records_and_keeps_the_rest(
    site: Site, login: Login, state: str, role: str
) -> None:
    case = make_case(site, state=state, role=role)
    client, wrong = login(case.person), []
    for part in PARTS:
        beginning = transaction.savepoint()
        case.take(part)
        expected = dict(cells(state=state, role=role, part=part))
        found = (
            *at_the_form(client, case, expected),
            *by_hand(client, case, expected),
            *on_list(client, case),
        )
        wrong += [f"{role} as {part}: {what}" for what in found]
        transaction.savepoint_rollback(beginning)

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
    before = all_rows()
    for deed, allowed in expected.items():
        start, refusals = transaction.savepoint(), case.refusals(deed)
        # With a reason the answer to a refusal is the whole page, so it is given where it is looked at.
        reason = {"reason": REASON} if deed in NEED_A_REASON and case.state in REVIEWED else {}
        fields = {"digest": case.change.digest, **reason}
        answer = client.post(reverse("admin:balancer_change_do", args=[case.change.pk, deed]), fields)
        refused = case.refusals(deed) - refusals
        if allowed and case.now().state != LEADS_TO[deed]:
            yield f"{deed} is allowed, but was not done"
        if not allowed and all_rows() != before:
            yield f"{deed} is not allowed, but changed something"
        if not allowed and refused != case.person.has_perm("balancer.view_change"):
            yield f"{deed} was refused, but not put on record"  # others are sent away before the workflow
        if answer.status_code not in {200, 302, 403}:
            yield f"{deed} was answered with {answer.status_code}"
        transaction.savepoint_rollback(start)


def on_list(client: Client, case: Case) -> Iterator[str]:
    """What Django's admin would take for an action on the rows of a list."""
    before, name = all_rows(), next(LISTS)
    row = case.change if "change_" in name else Service.objects.get()
    fields = {"action": next(ACTIONS), "_selected_action": [row.pk], "index": 0, "post": "yes"}
    answer = client.post(reverse(name), {**fields, "select_across": 1})
    if answer.status_code not in {200, 302, 403} or all_rows() != before:
        yield f"the action {fields['action']} on {name} did something"
