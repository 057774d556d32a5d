"""Somebody else was quicker: who changed a service while a form of it was open, and what both edits make."""

from datetime import datetime

from balancer.domain.lifecycle import ChangeState
from balancer.domain.merge import Merge, merge_service
from balancer.models import AuditEvent, Change, Cluster, Draft
from balancer.workflow.audit import Action
from balancer.workflow.documents import Data
from balancer.workflow.errors import Refused


class Overtaken(Refused):
    """Somebody else has changed the service while it was being edited. Nothing was saved."""

    def __init__(
        self, *, name: str, by: str, at: datetime | None, seen: Data, now: Data | None, merge: Merge
    ) -> None:
        what = "changed" if now is not None else "took out"
        when = f" on {at:%-d %b, %H:%M}" if at else ""
        super().__init__("conflict", f"{by} {what} {name}{when} while you were editing it.")
        self.by = by
        self.seen = seen
        """The service as the form showed it."""
        self.now = now
        """The service as it is now; None where it is gone."""
        self.merge = merge
        """Both edits brought together; where they clash, with what was typed here."""


def require_seen(
    *,
    change: Change | None,
    cluster: Cluster,
    now: Data | None,
    name: str,
    seen: Data | None,
    mine: Data,
) -> None:
    """Raises Overtaken where the service is not what the form showed any more."""
    if seen is None and now is None:
        raise Refused("conflict", f"There is no service named {name} any more. Reload the page.")
    if seen is None or seen == now:
        return
    by, at = _who_changed(change=change, cluster=cluster, name=name)
    merge = merge_service(base=seen, theirs=now, mine=mine)
    raise Overtaken(name=name, by=by, at=at, seen=seen, now=now, merge=merge)


def _who_changed(*, change: Change | None, cluster: Cluster, name: str) -> tuple[str, datetime | None]:
    """Whose work the content is that a form would show now, and since when."""
    draft = Draft.objects.filter(change=change, service_name=name).select_related("updated_by").first()
    if draft is not None:
        return draft.updated_by.get_username(), draft.updated_at
    found = [moment for moment in (_who_took_out(change, name), _who_made_live(cluster, name)) if moment]
    at, by = max(found, default=(None, "Somebody"))
    return by, at


def _who_took_out(change: Change | None, name: str) -> tuple[datetime, str] | None:
    """When a draft of the service was last taken out of the change, and by whom."""
    if change is None:
        return None
    events = AuditEvent.objects.filter(object_type="change", object_id=str(change.pk), facts__service=name)
    return (
        events.filter(action=Action.DRAFT_DISCARDED).order_by("-pk").values_list("at", "actor_name").first()
    )


def _who_made_live(cluster: Cluster, name: str) -> tuple[datetime, str] | None:
    """When an edit of the service last became live, and whose it was."""
    applied = Draft.objects.filter(
        service_name=name, change__cluster=cluster, change__state=ChangeState.APPLIED
    )
    latest = applied.order_by("-change__closed_at")
    return latest.values_list("change__closed_at", "updated_by__username").first()
