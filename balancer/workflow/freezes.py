"""Times in which nothing is applied: neither at once nor in a window, no rollback and no drill.

What nobody asked for goes on: nodes are brought back to what is live, and the guard puts back what was not
confirmed.
"""

from datetime import datetime

from django.db.models import Q, QuerySet
from django.utils import timezone

from balancer.models import Cluster, Freeze
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.clock import Clock
from balancer.workflow.errors import Invalid, Refused
from balancer.workflow.permissions import ADMINISTER, Actor, require


@deed(Action.FREEZE_DECLARED, target="cluster")
def declare_freeze(
    *,
    actor: Actor,
    cluster: Cluster | None,
    starts_at: datetime,
    ends_at: datetime,
    reason: str,
    clock: Clock = timezone.now,
) -> Freeze:
    """Apply nothing in the cluster (None: in any) from one moment to the other. Needs ADMINISTER.

    A deployment that runs goes on. Invalid: without a reason, over already, or ending before it starts.
    """
    require(actor=actor, permission=ADMINISTER)
    problems = {}
    if not reason.strip():
        problems["reason"] = "Say why, so that those who wait know."
    if ends_at <= clock():
        problems["ends_at"] = "That is in the past; choose an end to come."
    elif ends_at <= starts_at:
        problems["ends_at"] = "The end has to come after the start."
    if problems:
        raise Invalid(problems)
    freeze = Freeze.objects.create(
        cluster=cluster,
        starts_at=starts_at,
        ends_at=ends_at,
        reason=reason.strip(),
        made_by=actor,
        made_at=clock(),
    )
    facts = {
        "cluster": cluster.name if cluster else None,
        "from": starts_at.isoformat(),
        "until": ends_at.isoformat(),
        "reason": freeze.reason,
    }
    audit.record(actor=actor, action=Action.FREEZE_DECLARED, target=cluster, facts=facts)
    return freeze


@deed(Action.FREEZE_LIFTED, target="freeze")
def lift_freeze(*, actor: Actor, freeze: Freeze, clock: Clock = timezone.now) -> Freeze:
    """Needs ADMINISTER. Refused("state") where it is lifted already or over."""
    require(actor=actor, permission=ADMINISTER)
    now = clock()
    lifted = Freeze.objects.filter(pk=freeze.pk, lifted_at=None, ends_at__gt=now).update(
        lifted_by=actor, lifted_at=now
    )
    if not lifted:
        raise Refused("state", "This freeze is over or was lifted already; there is nothing to lift.")
    freeze.refresh_from_db()
    facts = {"cluster": freeze.cluster.name if freeze.cluster else None, "reason": freeze.reason}
    audit.record(actor=actor, action=Action.FREEZE_LIFTED, target=freeze.cluster or freeze, facts=facts)
    return freeze


def freezes_of(*, cluster: Cluster, now: datetime) -> "QuerySet[Freeze]":
    """Those that hold or are to come, by their start."""
    mine = Q(cluster=cluster) | Q(cluster=None)
    found = Freeze.objects.filter(mine, lifted_at=None, ends_at__gt=now)
    return found.select_related("cluster", "made_by").order_by("starts_at", "pk")


def find_freeze(*, cluster: Cluster, starts_at: datetime, ends_at: datetime) -> Freeze | None:
    """The first that holds at some time from one moment up to the other."""
    return freezes_of(cluster=cluster, now=starts_at).filter(starts_at__lt=ends_at).first()


def require_not_frozen(*, cluster: Cluster, now: datetime, emergency: bool = False) -> None:
    """Refused("frozen") with the reason. For apply, windows, rollbacks and drills; an emergency passes."""
    freeze = freezes_of(cluster=cluster, now=now).filter(starts_at__lte=now).first()
    if freeze is not None and not emergency:
        raise Refused("frozen", describe_freeze(freeze))


def describe_freeze(freeze: Freeze) -> str:
    where = f"The cluster {freeze.cluster.name} is" if freeze.cluster else "All clusters are"
    until = timezone.localtime(freeze.ends_at)
    by = f", by {freeze.made_by.get_username()}" if freeze.made_by else ""
    return (
        f"{where} frozen until {until:%-d %b %Y, %H:%M}{by}: {freeze.reason.rstrip('.')}. Wait, or ask an"
        " administrator to lift it."
    )
