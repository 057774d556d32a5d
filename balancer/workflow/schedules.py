"""Approved now, applied then: asking for a window, and giving it up. `windows` begins the deployment."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta

from django.utils import timezone

from balancer.domain.codec import digest_text
from balancer.domain.lifecycle import WINDOW_ACTIVE, ChangeDeed, WindowState
from balancer.domain.types import Document
from balancer.models import Change, Cluster, Window
from balancer.workflow import audit
from balancer.workflow.approvals import why_not_approved
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import advance, lock_change, lock_cluster, require_current
from balancer.workflow.clock import Clock
from balancer.workflow.documents import candidate_document
from balancer.workflow.errors import Invalid, Refused
from balancer.workflow.freezes import describe_freeze, find_freeze
from balancer.workflow.permissions import APPLY, Actor, require
from balancer.workflow.revisions import live_revision, render_rulesets

LENGTH_MAX = timedelta(days=7)


@deed(Action.CHANGE_SCHEDULED, target="change")
def schedule_change(
    *,
    actor: Actor,
    change: Change,
    starts_at: datetime | None,
    ends_at: datetime | None,
    clock: Clock = timezone.now,
) -> Window:
    """Let an approved change be applied between two moments, as this person. Needs APPLY.

    Everything is asked again then. Refused: "state" (not approved), "scheduled" (it has a window), "stale",
    "not-approved"; Invalid for times that cannot be taken.
    """
    require(actor=actor, permission=APPLY)
    if actor is None:
        raise Refused("forbidden", "A window needs a person; the system asks for none.")
    cluster = lock_cluster(change.cluster)
    change = lock_change(change)
    advance(change=change, deed=ChangeDeed.SCHEDULE)
    if find_window(change) is not None:
        raise Refused("scheduled", f"{change} is scheduled already. Cancel that window first.")
    problems = check_times(cluster=cluster, starts_at=starts_at, ends_at=ends_at, now=clock())
    if problems or starts_at is None or ends_at is None:
        raise Invalid(problems)
    require_current(change)
    why_not = why_not_approved(change)
    if why_not is not None:
        raise Refused("not-approved", why_not)
    window = Window.objects.create(
        change=change,
        starts_at=starts_at,
        ends_at=ends_at,
        requested_by=actor,
        requested_at=clock(),
        digest=change.digest,
        ruleset_digest=digest_rulesets(candidate_document(change)),
        base_revision=live_revision(cluster),
    )
    facts = {"from": starts_at.isoformat(), "until": ends_at.isoformat(), "digest": change.digest}
    words = f"From {_spell(starts_at)} until {_spell(ends_at)}."
    audit.record(actor=actor, action=Action.CHANGE_SCHEDULED, target=change, facts=facts | {"words": words})
    return window


@deed(Action.WINDOW_CANCELLED, target="change")
def cancel_window(*, actor: Actor, change: Change) -> Window:
    """Give up the window of a change; it stays approved. Needs APPLY. Refused("nothing") without one."""
    require(actor=actor, permission=APPLY)
    lock_cluster(change.cluster)
    window = find_window(change)
    if window is None:
        raise Refused("nothing", f"{change} has no window that could be cancelled.")
    end_window(window=window, state=WindowState.CANCELLED, actor=actor)
    return window


def close_window(*, change: Change, actor: Actor, why: str) -> None:
    """Where a change has a window that has become needless: end it. Part of the deed that makes it so."""
    window = find_window(change)
    if window is not None:
        end_window(window=window, state=WindowState.CANCELLED, actor=actor, why=why)


def find_window(change: Change) -> Window | None:
    """The one that is still to come."""
    found = Window.objects.filter(change=change, state__in=WINDOW_ACTIVE)
    return found.select_related("requested_by", "base_revision").first()


def end_window(
    *,
    window: Window,
    state: WindowState,
    actor: Actor = None,
    code: str = "",
    why: str = "",
    now: datetime | None = None,
) -> None:
    """Part of a deed: the caller holds the lock on the cluster."""
    window.state, window.code, window.why = state, code, why
    window.finished_at = now or timezone.now()
    if state is WindowState.CANCELLED:
        window.cancelled_by = actor
    window.save(update_fields=["state", "code", "why", "finished_at", "cancelled_by", "deployment"])
    facts = {"code": code, "why": why, "from": window.starts_at.isoformat(), "by": window.requested_by_id}
    action = {
        WindowState.CANCELLED: Action.WINDOW_CANCELLED,
        WindowState.STARTED: Action.WINDOW_STARTED,
        WindowState.STOPPED: Action.WINDOW_STOPPED,
        WindowState.MISSED: Action.WINDOW_MISSED,
    }[state]
    audit.record(actor=actor, action=action, target=window.change, facts=facts)


def check_times(
    *, cluster: Cluster, starts_at: datetime | None, ends_at: datetime | None, now: datetime
) -> Mapping[str, str]:
    """Argument -> what is wrong with it, in a sentence; empty where the times can be taken."""
    if starts_at is None or ends_at is None:
        given = {"starts_at": starts_at, "ends_at": ends_at}
        return {name: "Give a date and a time." for name, value in given.items() if value is None}
    if starts_at < now:
        return {"starts_at": "That is in the past; choose a time to come, or apply it now."}
    if ends_at <= starts_at:
        return {"ends_at": "The end has to come after the start."}
    if ends_at - starts_at > LENGTH_MAX:
        return {"ends_at": f"A window is at most {LENGTH_MAX.days} days long."}
    freeze = find_freeze(cluster=cluster, starts_at=starts_at, ends_at=ends_at)
    if freeze is not None:
        return {"starts_at": f"A freeze lies in it. {describe_freeze(freeze)}"}
    return {}


def digest_rulesets(document: Document) -> str:
    """One number for the text of every ruleset that the document compiles to."""
    return digest_text(json.dumps(render_rulesets(document), sort_keys=True))


def _spell(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%-d %b %Y, %H:%M}"
