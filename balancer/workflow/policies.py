"""The policies of a cluster, and what changes of people do to changes under review."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import Group, User
from django.db.models import Q, QuerySet

from balancer.domain.lifecycle import CHANGE_OPEN, CHANGE_REVIEWED, DEPLOYMENT_ACTIVE
from balancer.domain.policy import describe_policy
from balancer.models import Change, Cluster, Deployment
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import is_involved, lock_cluster
from balancer.workflow.errors import Refused, require_valid
from balancer.workflow.permissions import ADMINISTER, APPROVE, Actor, may, require
from balancer.workflow.submissions import reconsider


@deed(Action.POLICY_UPDATED, target="cluster")
def update_policy(
    *,
    actor: Actor,
    cluster: Cluster,
    approvals: int,
    critical_approvals: int,
    groups: Iterable[Group] = (),
    expire_hours: int | None = None,
) -> Cluster:
    """Say what an approval needs in this cluster. Needs ADMINISTER.

    Every open change learns of it; those in review are to be reviewed again, as the policy is a part of what
    was approved. Refused: "own-change" for somebody who wrote an open change here (nobody eases the way of
    their own work, superusers included), "busy" while a deployment runs.
    """
    require(actor=actor, permission=ADMINISTER)
    cluster = lock_cluster(cluster)
    require_no_own_change(actor=actor, cluster=cluster)
    if Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE).exists():
        raise Refused("busy", "A change is being applied under the present policy; wait until that is over.")
    was = cluster.policy
    cluster.approvals, cluster.critical_approvals = approvals, critical_approvals
    cluster.approvals_expire_hours = expire_hours
    require_valid(cluster)
    cluster.save(update_fields=["approvals", "critical_approvals", "approvals_expire_hours"])
    cluster.approver_groups.set(groups)
    now = cluster.policy
    if now == was:
        return cluster
    facts = {"was": was.to_data(), "now": now.to_data(), "words": describe_policy(now)}
    audit.record(actor=actor, action=Action.POLICY_UPDATED, target=cluster, facts=facts)
    for change in Change.objects.filter(cluster=cluster, state__in=CHANGE_OPEN).order_by("pk"):
        reconsider(change=change, actor=actor, action=Action.CHANGE_POLICY_CHANGED, facts=facts)
    return cluster


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account is to the approval of changes."""

    roles: tuple[str, ...]
    active: bool
    superuser: bool
    approves: bool


def standing_of(person: User) -> Standing:
    """As the database has it now."""
    fresh = User.objects.get(pk=person.pk)
    return Standing(
        roles=tuple(sorted(fresh.groups.values_list("name", flat=True))),
        active=fresh.is_active,
        superuser=fresh.is_superuser,
        approves=may(actor=fresh, permission=APPROVE),
    )


def record_person(*, actor: Actor, person: User, was: Standing | None, changed: Any = None) -> None:
    """Put on record what became of an account, in the transaction that changed it; `was` None: it is new.

    It shows on every open change that it touches: those that the person wrote, edited or voted on, and those
    in review, where the person begins or ceases to count as an approver: for want of a role, or because who
    wrote the change has set the password.
    """
    now = standing_of(person)
    action = Action.PERSON_CREATED if was is None else Action.PERSON_UPDATED
    facts = {"was": was and asdict(was), "now": asdict(now), "changed": changed, "roles": list(now.roles)}
    audit.record(actor=actor, action=action, target=person, facts=facts)
    if was == now and "password" not in (changed or ()):
        return
    _tell_changes(
        actor=actor,
        changes=_changes_touched(person, was=was, now=now, by=actor),
        facts={"person": person.get_username(), **facts},
    )


def record_role(*, actor: Actor, group: Group, was: frozenset[str] | None, now: frozenset[str]) -> None:
    """Put on record what became of a role's permissions; those in review learn of a new right to approve."""
    facts = {"gained": sorted(now - (was or frozenset())), "lost": sorted((was or frozenset()) - now)}
    action = Action.ROLE_CREATED if was is None else Action.ROLE_UPDATED
    audit.record(actor=actor, action=action, target=group, facts=facts)
    if APPROVE.partition(".")[2] in {*facts["gained"], *facts["lost"]}:
        changes = Change.objects.filter(state__in=CHANGE_REVIEWED)
        _tell_changes(actor=actor, changes=changes, facts={"role": group.name, **facts})


def permissions_of(group: Group) -> frozenset[str]:
    """Codenames, as the database has them now."""
    return frozenset(Group.objects.get(pk=group.pk).permissions.values_list("codename", flat=True))


def _tell_changes(*, actor: Actor, changes: "QuerySet[Change]", facts: dict[str, Any]) -> None:
    for change in changes.order_by("pk"):
        reconsider(change=change, actor=actor, action=Action.CHANGE_PEOPLE_CHANGED, facts=facts)


def _changes_touched(person: User, *, was: Standing | None, now: Standing, by: Actor) -> "QuerySet[Change]":
    own = Q(author=person) | Q(contributors=person) | Q(invited=person) | Q(votes__user=person)
    touched = Q(pk__in=Change.objects.filter(own, state__in=CHANGE_OPEN).values("pk"))
    if by is not None and now.approves:
        written = Change.objects.filter(Q(author=by) | Q(contributors=by), state__in=CHANGE_REVIEWED)
        touched |= Q(pk__in=written.values("pk"))
    before = (False, (), False) if was is None else (was.approves, was.roles, was.active)
    if before != (now.approves, now.roles, now.active) and (now.approves or (was and was.approves)):
        touched |= Q(state__in=CHANGE_REVIEWED)
    return Change.objects.filter(touched)


def require_no_own_change(*, actor: Actor, cluster: Cluster) -> None:
    if actor is None:
        return
    for change in Change.objects.filter(cluster=cluster, state__in=CHANGE_OPEN):
        if is_involved(actor=actor, change=change):
            raise Refused(
                "own-change",
                f"You wrote {change}, which is still open, so the policy that it is judged by is not yours to"
                " change now. Let somebody else do it, or discard the change first.",
            )
