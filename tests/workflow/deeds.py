"""Short ways to say who does what, for the tests beside this file."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.utils import timezone

from balancer.domain.merge import Side
from balancer.domain.types import BackendState
from balancer.models import AuditEvent, Change, Cluster, Job, Override
from balancer.workflow.approvals import approve_change
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import SavedDraft, save_draft
from balancer.workflow.editing import invite_person, open_change
from balancer.workflow.errors import Refused
from balancer.workflow.overrides import set_override
from balancer.workflow.policies import update_policy
from balancer.workflow.queries import view_change
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import backend_data, service_data

Choices = Mapping[str, Mapping[str, Side]]


def refusal_of(deed: Callable[[], Any]) -> Refused:
    """Why the deed was not done; it must be refused."""
    with pytest.raises(Refused) as refused:
        deed()
    return refused.value


def approve(person: User, change: Change) -> Change:
    """Says yes to what the change is now, having just typed the password."""
    change.refresh_from_db()
    return approve_change(actor=person, change=change, digest=change.digest, password_at=timezone.now())


def open_by(person: User, site: Site, title: str = "A change") -> Change:
    return open_change(actor=person, cluster=site.cluster, title=title)


def edit(
    person: User, site: Site, change: Change | None = None, name: str = "web", **fields: Any
) -> SavedDraft:
    """Saves a service that is live or drafted (else a new one) with these fields; it must be possible.

    Its backends have a port of their own, so that they stay when the port of the service moves.
    """
    fields.setdefault("backends", [backend_data(f"10.0.0.{last}", port=80) for last in range(3, 7)])
    options = {} if change is None else {"change": change}
    known = {"seen", "original_name"}
    options |= {key: fields.pop(key) for key in known & set(fields)}
    there = site.cluster.services.filter(name=name).exists() or (
        change is not None and change.drafts.filter(service_name=name, after__isnull=False).exists()
    )
    options.setdefault("original_name", name if there else None)
    saved = save_draft(actor=person, cluster=site.cluster, data=service_data(name, **fields), **options)
    assert saved.saved, saved.problems
    return saved


def submitted_by(person: User, site: Site, name: str = "web", **fields: Any) -> Change:
    change = open_by(person, site)
    edit(person, site, change, name, **fields)
    return submit_change(actor=person, change=change)


def invited(person: User, *, to: Change) -> User:
    invite_person(actor=to.author, change=to, username=person.get_username())
    return person


def go_live(site: Site, change: Change) -> None:
    """From a draft to live on every node, by the usual people."""
    site.finish(apply_change(actor=site.operator, change=site.approve(change)))


def actions_on(change: Change) -> list[str]:
    """What is on the record of a change, in order."""
    found = AuditEvent.objects.filter(object_type="change", object_id=str(change.pk)).order_by("pk")
    return list(found.values_list("action", flat=True))


def set_policy(
    site: Site,
    *,
    approvals: int = 1,
    critical: int = 2,
    groups: tuple[str, ...] = (),
    hours: int | None = None,
    by: User | None = None,
) -> Cluster:
    return update_policy(
        actor=by,
        cluster=site.cluster,
        approvals=approvals,
        critical_approvals=critical,
        groups=Group.objects.filter(name__in=groups),
        expire_hours=hours,
    )


def fresh(change: Change) -> Change:
    return Change.objects.get(pk=change.pk)


def notes_on(change: Change) -> list[str]:
    """Why the approvals on the page do not count."""
    return [vote.why_not_counted for vote in view_change(change=fresh(change), user=change.author).votes]


def operate(site: Site, last: int = 3, *, by: User | None = None, **fields: Any) -> Override:
    fields = fields or {"state": BackendState.DRAINING}
    return set_override(
        actor=by or site.operator,
        cluster=site.cluster,
        service=fields.pop("service", "web"),
        address=f"10.0.0.{last}",
        port=fields.pop("port", 80),
        reason=fields.pop("reason", "disk is full"),
        **fields,
    )


def run_jobs(site: Site) -> None:
    for job in Job.objects.filter(state="queued").select_related("node"):
        site.run(job)


def events(action: str) -> list[dict[str, Any]]:
    return list(AuditEvent.objects.filter(action=action).order_by("pk").values_list("facts", flat=True))
