"""Operating, as opposed to changing: overrides that operators set on backends, and lift.

What a node carries is a revision with the overrides in force laid over it. They are in no document, in no
revision and in no digest that is approved (ADR 0013).
"""

from ipaddress import ip_address

from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE
from balancer.domain.overrides import (
    Override,
    is_approved,
    why_not_lift,
    why_not_override,
)
from balancer.domain.types import BackendState
from balancer.models import Cluster, Deployment, Job, LateReview, Node
from balancer.models import Override as OverrideRecord
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import lock_cluster
from balancer.workflow.documents import live_document
from balancer.workflow.effective import active_overrides, overrides_in_force, value_of
from balancer.workflow.errors import Refused
from balancer.workflow.late_reviews import open_late_review
from balancer.workflow.permissions import OPERATE, Actor, require
from balancer.workflow.queueing import queue_job
from balancer.workflow.revisions import live_revision, require_up_to_date

CAUSE_MAX = 200
"""Of `Job.cause`."""


@deed(Action.OVERRIDE_SET, target="cluster")
def set_override(
    *,
    actor: Actor,
    cluster: Cluster,
    service: str,
    address: str,
    port: int,
    reason: str,
    state: BackendState | None = None,
    weight: int | None = None,
) -> OverrideRecord:
    """Set the state or the weight of a live backend, on every node at once. Needs OPERATE.

    It takes the place of an override of the same kind; where what is asked for is what was approved, that one
    is lifted and returned. Refused: "reason", "invalid", "nothing" (it is so already), "limit" (by the policy
    of the cluster, or no such backend), "outdated" (another lbadmin compiled what is live).
    """
    person = _require_operator(actor)
    if not reason.strip():
        raise Refused("reason", "Say why, for whoever looks at it afterwards. Nothing was changed.")
    cluster = lock_cluster(cluster)
    require_up_to_date(cluster)
    asked = _read(service=service, address=address, port=port, state=state, weight=weight)
    document, force = live_document(cluster), overrides_in_force(cluster)
    older = next((row for row in active_overrides(cluster) if value_of(row).place == asked.place), None)
    if older is not None and value_of(older) == asked:
        raise Refused("nothing", f"{older.set_by.get_username()} has set that already; nothing was changed.")
    if is_approved(document, asked):
        if older is None:
            raise Refused("nothing", f"{asked.endpoint} is so already, as approved; nothing was changed.")
        return _lift(actor=person, cluster=cluster, row=older)
    why_not = why_not_override(document, force, asked, cluster.operation)
    if why_not is not None:
        raise Refused("limit", why_not)
    return _set(actor=person, cluster=cluster, asked=asked, older=older, reason=reason.strip())


@deed(Action.OVERRIDE_LIFTED, target="override")
def lift_override(*, actor: Actor, override: OverrideRecord) -> OverrideRecord:
    """Give the backend back what was approved, on every node at once. Needs OPERATE.

    Its late review stays open until it is signed. Refused: "state" (lifted already), "limit", "outdated".
    """
    person = _require_operator(actor)
    cluster = lock_cluster(override.cluster)
    require_up_to_date(cluster)
    row = OverrideRecord.objects.get(pk=override.pk)
    if row.lifted_by is not None:
        raise Refused("state", f"{row.lifted_by.get_username()} has lifted it already.")
    return _lift(actor=person, cluster=cluster, row=row)


def _require_operator(actor: Actor) -> User:
    require(actor=actor, permission=OPERATE)
    if actor is None:
        raise Refused("forbidden", "An override is set and lifted by a person, who answers for it.")
    return actor


def _read(
    *, service: str, address: str, port: int, state: BackendState | None, weight: int | None
) -> Override:
    if (state is None) == (weight is None):
        raise Refused("invalid", "Say either which state or which weight the backend is to have.")
    try:
        parsed = ip_address(address)
    except ValueError as error:
        raise Refused("invalid", "That is not the address of a backend. Reload the page.") from error
    return Override(service=service, address=parsed, port=port, state=state, weight=weight)


def _set(
    *, actor: User, cluster: Cluster, asked: Override, older: OverrideRecord | None, reason: str
) -> OverrideRecord:
    if older is not None:
        _end(actor=actor, row=older, why="another one took its place")
    row = OverrideRecord.objects.create(
        cluster=cluster,
        service_name=asked.service,
        address=str(asked.address),
        port=asked.port,
        kind=OverrideRecord.Kind.WEIGHT if asked.state is None else OverrideRecord.Kind.STATE,
        state="" if asked.state is None else str(asked.state),
        weight=asked.weight,
        revision=live_revision(cluster),
        reason=reason,
        set_by=actor,
        set_at=timezone.now(),
    )
    audit.record(actor=actor, action=Action.OVERRIDE_SET, target=row, facts=_facts(row))
    kind = LateReview.Kind.OVERRIDE
    open_late_review(actor=actor, kind=kind, subject_id=row.pk, cluster=cluster, reason=reason)
    _bring_to_nodes(actor=actor, cluster=cluster, cause=f"{actor.get_username()} {row.done}")
    return row


def _lift(*, actor: User, cluster: Cluster, row: OverrideRecord) -> OverrideRecord:
    document, force = live_document(cluster), overrides_in_force(cluster)
    why_not = why_not_lift(document, force, value_of(row), cluster.operation)
    if why_not is not None:
        raise Refused("limit", why_not)
    _end(actor=actor, row=row)
    cause = f"{actor.get_username()} lifted an override ({row.words}) of {row.endpoint} of {row.service_name}"
    _bring_to_nodes(actor=actor, cluster=cluster, cause=cause)
    return row


def _end(*, actor: User, row: OverrideRecord, why: str = "") -> None:
    row.lifted_by, row.lifted_at = actor, timezone.now()
    row.save(update_fields=["lifted_by", "lifted_at"])
    facts = _facts(row) | {"why": why}
    audit.record(actor=actor, action=Action.OVERRIDE_LIFTED, target=row, facts=facts)


def _facts(row: OverrideRecord) -> dict[str, object]:
    return {
        "cluster": row.cluster.name,
        **value_of(row).to_data(),
        "words": f"{row.words}: {row.reason}",
        "reason": row.reason,
    }


def _bring_to_nodes(*, actor: User, cluster: Cluster, cause: str) -> None:
    """A convergence for every node that is free.

    The others take the overrides along with the job that they have, or see at their next tick that what they
    carry is not what is in force.
    """
    if Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE).exists():
        return
    live = live_revision(cluster)
    at_work = Job.objects.filter(state__in=JOB_ACTIVE).values("node")
    for node in Node.objects.filter(cluster=cluster, enabled=True).exclude(pk__in=at_work).order_by("name"):
        queue_job(actor=actor, node=node, revision=live, cause=cause[:CAUSE_MAX])
