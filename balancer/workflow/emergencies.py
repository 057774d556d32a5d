"""An emergency: a change is applied at once, and a second person signs it afterwards."""

from datetime import datetime

from django.utils import timezone

from balancer.domain.lifecycle import ChangeState
from balancer.models import Change, Deployment, Emergency, LateReview
from balancer.workflow import audit
from balancer.workflow.approvals import require_password
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import lock_change, lock_cluster
from balancer.workflow.clock import Clock
from balancer.workflow.deployments import start_deployment
from balancer.workflow.errors import Refused
from balancer.workflow.late_reviews import open_late_review
from balancer.workflow.permissions import EMERGENCY, Actor, require
from balancer.workflow.submissions import hand_in


@deed(Action.EMERGENCY_DECLARED, target="change")
def apply_in_emergency(
    *, actor: Actor, change: Change, reason: str, password_at: datetime | None, clock: Clock = timezone.now
) -> Deployment:
    """Bring a change to the nodes without approval, rehearsal or window, freeze or not. Needs EMERGENCY.

    One's own draft is handed in by that. Commit-confirm holds as ever. Refused: "reason", "password" as for
    an approval, and all that `apply_change` refuses but "not-approved", "not-rehearsed" and "frozen".
    """
    require(actor=actor, permission=EMERGENCY)
    if actor is None:
        raise Refused("forbidden", "An emergency is declared by a person.")
    if not reason.strip():
        raise Refused("reason", "Say what the emergency is; a second person reads it and signs afterwards.")
    require_password(password_at)
    lock_cluster(change.cluster)
    change = lock_change(change)
    if change.state == ChangeState.DRAFT:
        change = hand_in(actor=actor, change=change)
    emergency = Emergency.objects.create(
        change=change,
        digest=change.digest,
        reason=reason.strip(),
        declared_by=actor,
        declared_at=clock(),
    )
    facts = {"reason": emergency.reason, "digest": emergency.digest}
    audit.record(actor=actor, action=Action.EMERGENCY_DECLARED, target=change, facts=facts)
    open_late_review(
        actor=actor,
        kind=LateReview.Kind.EMERGENCY,
        subject_id=emergency.pk,
        cluster=change.cluster,
        reason=emergency.reason,
    )
    return start_deployment(actor=actor, change=change, emergency=emergency, clock=clock)
