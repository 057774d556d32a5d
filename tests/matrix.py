"""Who may do what with a change: every state, every role, every part that a person can have in it.

The expectations are written down here from the words of the design (docs/design/workflow.md), not taken from
the tables of the code.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection, transaction
from django.utils import timezone

from balancer.models import AuditEvent, Change, Node, Vote
from balancer.workflow.approvals import approve_change, reject_change, request_changes
from balancer.workflow.deployments import apply_change, cancel_deployment
from balancer.workflow.policies import update_policy
from balancer.workflow.submissions import discard_change, submit_change
from tests.cast import Site, make_person
from tests.documents import service_data

STATES = (
    "draft",
    "submitted",
    "approved",
    "rejected",
    "changes-requested",
    "applying",
    "applied",
    "failed",
    "discarded",
)
ROLES = ("Viewer", "Editor", "Approver", "Operator", "Administrator", "no role", "superuser")
PARTS = ("author", "contributor", "voter", "stranger")
CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
AT_A_DOOR = PARTS if CAMPAIGN else ("author", "stranger")
"""The parts that go through the command and the console; the workflow itself decides on all of them.

What a door adds is its way to the workflow, which does not depend on the part; a campaign takes them all.
"""
DEEDS = (
    *("submit", "withdraw", "approve", "reject", "request-changes"),
    *("apply", "schedule", "discard", "rehearse", "emergency"),
)

_WRITES = {"Editor", "Administrator", "superuser"}
_REVIEWS = {"Approver", "Administrator", "superuser"}
_APPLIES = {"Approver", "Operator", "Administrator", "superuser"}
_CLEARS_UP = {"Administrator", "superuser"}
_FROM = {
    "submit": {"draft", "changes-requested"},
    "withdraw": {"submitted", "changes-requested", "approved", "rejected", "failed"},
    "approve": {"submitted"},  # what is approved or was, has all that it needs
    "reject": {"submitted", "approved"},
    "request-changes": {"submitted", "approved"},
    "apply": {"approved", "failed"},
    "schedule": {"approved"},
    "discard": {"draft"},
    "emergency": {"draft", "submitted", "approved", "failed"},
    "rehearse": {"draft", "submitted", "changes-requested", "approved", "failed"},
}
LEADS_TO = {
    "submit": "submitted",
    "withdraw": "draft",
    "approve": "approved",
    "reject": "rejected",
    "request-changes": "changes-requested",
    "apply": "applying",
    "schedule": "approved",
    "emergency": "applying",
    "discard": "discarded",
}
"""A deed that is not here leaves the state as it is."""
EVENTS = {
    "submit": "change.submitted",
    "withdraw": "change.withdrawn",
    "approve": "change.approved",
    "reject": "change.rejected",
    "request-changes": "change.sent_back",
    "apply": "deployment.started",
    "schedule": "change.scheduled",
    "discard": "change.discarded",
    "emergency": "emergency.declared",
    "rehearse": "rehearsal.queued",
}
CLEARS_PERSISTENCE = {"Operator", "Administrator", "superuser"}
"""Who may have the clients of a live service forgotten: a deed of no part in a change and no state of one."""
NEED_A_REASON = ("reject", "request-changes")
REASON = "Because of the port."


def is_allowed(*, deed: str, state: str, role: str, part: str) -> bool:
    """Whether this person may do this now."""
    if state not in _FROM[deed]:
        return False
    wrote = part in {"author", "contributor"}
    if deed == "submit":
        return role in _WRITES and wrote
    if deed == "rehearse":
        return (role in _WRITES and wrote) or role in _REVIEWS
    if deed in {"withdraw", "discard"}:
        return (role in _WRITES and wrote) or role in _CLEARS_UP
    if deed == "emergency":
        return role in _CLEARS_UP and (state != "draft" or wrote)
    if deed in {"apply", "schedule"}:
        return role in _APPLIES
    if deed == "approve":
        return role in _REVIEWS and part == "stranger"  # a second yes of one person adds nothing
    return role in _REVIEWS and not wrote


def times_ahead() -> dict[str, datetime]:
    """A window that can be asked for."""
    start = timezone.now() + timedelta(hours=1)
    return {"starts_at": start, "ends_at": start + timedelta(hours=1)}


@dataclass
class Case:
    """A change in a state, and a person with a role; the part they have in it is given later."""

    change: Change
    person: User
    state: str

    def take(self, part: str) -> None:
        """Let the person have had this part, whatever role it took at that time."""
        if part == "author":
            Change.objects.filter(pk=self.change.pk).update(author=self.person)
        elif part == "contributor":
            self.change.contributors.add(self.person)
            self.change.invited.add(self.person)
        elif part == "voter" and self.change.digest:
            if self.state == "submitted":
                self.change.votes.all().delete()  # of two that are needed, theirs is the one that is there
            values = {"verdict": "approve", "digest": self.change.digest, "at": timezone.now()}
            Vote.objects.create(change=self.change, user=self.person, **values)

    def now(self) -> Change:
        return Change.objects.get(pk=self.change.pk)

    def refusals(self, deed: str) -> int:
        """How many refusals of the deed are on the record."""
        action = f"{EVENTS[deed]}.refused"
        found = AuditEvent.objects.filter(action=action, actor_id=self.person.pk, object_type="change")
        return found.filter(object_id=str(self.change.pk)).count()


def bring_change(site: Site, *, state: str) -> Change:
    """Two approvals are needed; a change in review has one of them. Rehearsals are on demand."""
    site.deploy(service_data("web"))
    Node.objects.update(facts={"flavour": "nft", "driver": "iptables-restore"}, last_seen=timezone.now())
    update_policy(actor=None, cluster=site.cluster, approvals=2, critical_approvals=2)
    change = site.change(service_data("web", scheduler="random"))
    _bring(site, change, state)
    return Change.objects.get(pk=change.pk)


def make_case(change: Change, *, state: str, role: str, password: str | None = None) -> Case:
    """The change, and a new person with this role."""
    roles = () if role in {"no role", "superuser"} else (role,)
    person = make_person("person", *roles, superuser=role == "superuser", password=password)
    # All roles, one after the other, take longer on a busy machine than a node may be silent.
    Node.objects.update(last_seen=timezone.now())
    return Case(change=change, person=person, state=state)


@contextmanager
def taken_back() -> Iterator[None]:
    """Whatever is done inside has not been done afterwards."""
    start = transaction.savepoint()
    yield
    transaction.savepoint_rollback(start)


def _bring(site: Site, change: Change, state: str) -> None:
    if state == "draft":
        return
    if state == "discarded":
        discard_change(actor=site.author, change=change)
        return
    change = submit_change(actor=site.author, change=change)
    seen = {"actor": site.approver, "change": change, "digest": change.digest}
    if state == "rejected":
        reject_change(**seen, reason=REASON)
    elif state == "changes-requested":
        request_changes(**seen, reason=REASON)
    else:
        approve_change(**seen, password_at=timezone.now())
        if state != "submitted":
            _bring_on(site, change, state)


def _bring_on(site: Site, change: Change, state: str) -> None:
    second = make_person("second", "Approver")
    approve_change(actor=second, change=change, digest=change.digest, password_at=timezone.now())
    if state == "approved":
        return
    deployment = apply_change(actor=site.operator, change=change)
    if state == "applied":
        site.finish(deployment)
    elif state == "failed":
        cancel_deployment(actor=site.operator, deployment=deployment)


def cells(*, state: str, role: str, part: str) -> Iterator[tuple[str, bool]]:
    """Every deed, and whether it is allowed."""
    for deed in DEEDS:
        yield deed, is_allowed(deed=deed, state=state, role=role, part=part)


def cells_at_a_door(*, state: str, role: str, part: str) -> Iterator[tuple[str, bool]]:
    """The cells that go through the command and the console.

    What nobody may do in a state, the superuser tries there: whoever may less is refused by the same
    function, and the workflow itself is asked for all of them. A campaign takes them all.
    """
    for deed, allowed in cells(state=state, role=role, part=part):
        if CAMPAIGN or state in _FROM[deed] or role == "superuser":
            yield deed, allowed


class Rows:
    """Every row of ours and of the accounts, but the audit history, as it was when this was made.

    The rows are read again only after a statement that may have written one: most refusals write nothing.
    """

    def __init__(self) -> None:
        self._before = _all_rows()
        self._written = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Statements inside are looked at; what was written before is forgotten."""
        self._written = False
        with connection.execute_wrapper(self._look):
            yield

    def are_the_same(self) -> bool:
        return not self._written or _all_rows() == self._before

    def _look(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        self._written |= not sql.startswith(HARMLESS)
        return execute(sql, params, many, context)


HARMLESS = (
    *("SELECT", "SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO SAVEPOINT"),
    *(
        f'INSERT INTO "{AuditEvent._meta.db_table}"',
        'INSERT INTO "django_session"',
        'UPDATE "django_session"',
    ),
)
"""How a statement begins that leaves the rows of `Rows` as they are."""


def _all_rows() -> dict[str, list[tuple[Any, ...]]]:
    models = [*apps.get_app_config("balancer").get_models(include_auto_created=True), User, Group]
    return {
        model._meta.label: list(model._default_manager.order_by("pk").values_list())
        for model in models
        if model is not AuditEvent
    }
