"""Many people at one button, through the real web server: one outcome, and everybody gets an answer."""

import os
from collections import Counter
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from balancer.models import AuditEvent, Change, Deployment, Job, Revision, Vote
from balancer.workflow.policies import update_policy
from balancer.workflow.submissions import submit_change
from tests.cast import Site, make_person
from tests.documents import service_data
from tests.stack.browsers import Answer, Browser, Press, press_at_once
from tests.stack.machinery import Stack
from tests.stack.site import make_site

WORKERS = 3
both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


def browsers(role: str, count: int, *, console: Path) -> list[Browser]:
    people: list[User] = [make_person(f"{role.lower()}-{number}", role) for number in range(count)]
    return [Browser.of(person, console=console) for person in people]


def presses(on: Change, deed: str, people: list[Browser], *, times: int) -> list[Press]:
    address = f"/balancer/change/{on.pk}/do/{deed}/"
    return [Press(person, address, {"digest": on.digest}) for person in people for _ in range(times)]


def assert_everybody_was_answered(answers: list[Answer]) -> None:
    """Nobody saw an error page, and everybody a sentence: what was done, or why it was not."""
    assert Counter(answer.status for answer in answers) == {302: len(answers)}
    assert [answer for answer in answers if not answer.message.endswith(".")] == []
    assert [answer for answer in answers if "locked" in answer.message] == []


def submitted(site: Site, name: str = "web", **fields: object) -> Change:
    return submit_change(actor=site.author, change=site.change(service_data(name, **fields)))


@both_databases
@pytest.mark.parametrize("needed", [1, 3] if "LBADMIN_CAMPAIGN" in os.environ else [3])
def test_of_a_hundred_racing_approvals_as_many_count_as_are_needed_and_of_twenty_applies_one(
    stack: Stack, needed: int
) -> None:
    site, console = make_site("lb1", "lb2"), stack.web(workers=WORKERS)
    update_policy(actor=None, cluster=site.cluster, approvals=needed, critical_approvals=needed)
    change = submitted(site)

    approvers = browsers("Approver", 10, console=console)
    approvals = press_at_once(presses(change, "approve", approvers, times=10))

    assert_everybody_was_answered(approvals)
    change.refresh_from_db()
    assert change.state == "approved"
    assert sum(answer.done for answer in approvals) == needed
    assert Vote.objects.values("user").distinct().count() == Vote.objects.count() == needed
    assert AuditEvent.objects.filter(action="change.approved").count() == needed
    assert AuditEvent.objects.filter(action="change.approved.refused").count() == 100 - needed

    operators = browsers("Operator", 5, console=console)
    applies = press_at_once(presses(change, "apply", operators, times=4))

    assert_everybody_was_answered(applies)
    assert sum(answer.done for answer in applies) == 1
    assert list(Deployment.objects.values_list("state", flat=True)) == ["running"]
    assert sorted(Revision.objects.values_list("number", flat=True)) == [0, 1]
    assert sorted(Job.objects.values_list("node__name", flat=True)) == ["lb1", "lb2"]
    assert AuditEvent.objects.filter(action="deployment.started.refused").count() == 19


@both_databases
def test_of_several_changes_that_are_applied_at_once_one_is_and_the_others_wait_their_turn(
    stack: Stack,
) -> None:
    site, console = make_site("lb1"), stack.web(workers=WORKERS)
    changes = [site.approve(site.change(service_data(f"s{i}", port=1000 + i))) for i in range(4)]

    operators = browsers("Operator", 5, console=console)
    answers = press_at_once([press for c in changes for press in presses(c, "apply", operators, times=1)])

    assert_everybody_was_answered(answers)
    assert sum(answer.done for answer in answers) == 1
    assert Deployment.objects.filter(state="running").count() == Deployment.objects.count() == 1
    assert Counter(Change.objects.values_list("state", flat=True)) == {"applying": 1, "approved": 3}
    assert Revision.objects.filter(number__gt=0).count() == 1


@both_databases
def test_an_approval_that_races_with_a_withdrawal_is_bound_to_what_was_withdrawn(stack: Stack) -> None:
    """Whichever comes first: an approval never ends up on a draft."""
    site, console = make_site("lb1"), stack.web(workers=WORKERS)
    change = submitted(site)
    author = Browser.of(site.author, console=console)
    approvers = browsers("Approver", 10, console=console)

    withdrawal = Press(author, f"/balancer/change/{change.pk}/do/withdraw/", {})
    answers = press_at_once([*presses(change, "approve", approvers, times=1), withdrawal])

    assert_everybody_was_answered(answers)
    assert answers[-1].done
    assert (Change.objects.get().state, Vote.objects.count()) == ("draft", 0)
