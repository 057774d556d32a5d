"""Beginning what was scheduled. Rows are the queue: the tick of any worker of the cluster starts what is due.

Nothing is taken on trust from the moment at which it was scheduled: who asked, what was approved, what is
live, what it compiles to, whether it is rehearsed and whether the cluster is frozen are asked again.
"""

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from balancer.domain.lifecycle import WINDOW_ACTIVE, ChangeState, WindowState
from balancer.models import Change, Cluster, Vote, Window
from balancer.workflow import audit
from balancer.workflow.approvals import why_not_agreed, why_not_counted
from balancer.workflow.changes import lock_change, lock_cluster, require_current
from balancer.workflow.clock import Clock
from balancer.workflow.deployments import start_deployment
from balancer.workflow.documents import candidate_document
from balancer.workflow.errors import Refused
from balancer.workflow.freezes import require_not_frozen
from balancer.workflow.permissions import APPLY, may
from balancer.workflow.rehearsals import request_fresh
from balancer.workflow.rehearsed import is_required, standing_of
from balancer.workflow.revisions import live_revision
from balancer.workflow.rollout import find_running
from balancer.workflow.schedules import digest_rulesets, end_window

WAITS = ("busy", "away")
"""Refusals that may pass while the window is open."""


def run_due_windows(*, cluster: Cluster, clock: Clock = timezone.now) -> None:
    """Begin, stop or write off each window of the cluster whose time has come."""
    for window in Window.objects.filter(
        change__cluster=cluster, state__in=WINDOW_ACTIVE, starts_at__lte=clock()
    ):
        with audit.writing():
            # Whoever comes second finds it ended here.
            lock_cluster(cluster)
            found = Window.objects.filter(pk=window.pk, state__in=WINDOW_ACTIVE)
            current = found.select_related("change__cluster", "requested_by", "base_revision").first()
            if current is not None:
                _run(current, now=clock(), clock=clock)


def _run(window: Window, *, now: datetime, clock: Clock) -> None:
    if now >= window.ends_at:
        _miss(window, now=now)
        return
    change = lock_change(window.change)
    try:
        _require_as_scheduled(window, change=change, now=now)
        if _is_rehearsed(window, change=change, now=now):
            _start(window, change=change, now=now, clock=clock)
    except Refused as refusal:
        if refusal.code in WAITS:
            _wait(window, why=refusal.message)
        else:
            end_window(
                window=window, state=WindowState.STOPPED, code=refusal.code, why=refusal.message, now=now
            )


def _require_as_scheduled(window: Window, *, change: Change, now: datetime) -> None:
    """Refused with the first reason for which the change must not go live now."""
    _require_right(window)
    if change.state != ChangeState.APPROVED or change.digest != window.digest:
        raise Refused(
            "state",
            f"{change} is {change.state} and no longer what was scheduled. Have it approved and schedule it"
            " again.",
        )
    require_not_frozen(cluster=change.cluster, now=now)
    require_current(change)
    why_not = why_not_agreed(change)
    if why_not is not None:
        raise Refused("not-approved", f"{why_not} {_expired(change)}Have it approved and schedule it again.")
    if digest_rulesets(candidate_document(change)) != window.ruleset_digest:
        raise Refused("differs", _describe_difference(window))


def _require_right(window: Window) -> None:
    """Asked of the account as it is now."""
    if not may(actor=window.requested_by, permission=APPLY):
        name = window.requested_by.get_username()
        raise Refused(
            "forbidden",
            f"{name}, who scheduled it, may not apply changes any more. Somebody who may has to schedule it.",
        )


def _describe_difference(window: Window) -> str:
    live, then = live_revision(window.change.cluster), window.base_revision
    if live.pk == then.pk:
        return (
            "It does not compile to the rules that it compiled to when it was scheduled: this is another"
            " version of lbadmin. Look at the rules on its page and schedule it again."
        )
    return (
        f"Revision {live.number} became live since; when it was scheduled, revision {then.number} was. The"
        " rules are not those that were compiled then. Look at them on its page and schedule it again."
    )


def _expired(change: Change) -> str:
    """Which approvals were there and do not count any more."""
    votes = Vote.objects.filter(change=change, verdict=Vote.Verdict.APPROVE).select_related("user")
    reasons = [(vote.user.get_username(), why_not_counted(vote=vote, change=change)) for vote in votes]
    return "".join(f"The approval by {name}: {reason} " for name, reason in reasons if reason)


def _is_rehearsed(window: Window, *, change: Change, now: datetime) -> bool:
    """Whether it was rehearsed since its window began, where the policy asks for rehearsals; asks for one."""
    if not is_required(change.cluster):
        return True
    if window.rehearsing_since is None:
        since = request_fresh(change=change, reason="Its window has begun.")
        window.state, window.rehearsing_since = WindowState.REHEARSING, since
        window.save(update_fields=["state", "rehearsing_since"])
    standing = standing_of(change, since=window.rehearsing_since)
    if standing.passed:
        return True
    if not standing.pending:
        raise Refused("rehearsal", f"Rehearsed again, it did not pass: {standing.why_not}")
    _wait(window, why=f"It is being rehearsed again. {standing.why_not}")
    return False


def _start(window: Window, *, change: Change, now: datetime, clock: Clock) -> None:
    running = find_running(change.cluster)
    if running is not None:
        raise Refused("busy", f"Revision {running.revision.number} is being applied.")
    with transaction.atomic():
        window.deployment = start_deployment(
            actor=window.requested_by, change=change, scheduled=True, clock=clock
        )
    end_window(window=window, state=WindowState.STARTED, now=now)


def _miss(window: Window, *, now: datetime) -> None:
    reason = window.why or "no worker of the cluster was up."
    why = f"Its window was over before it could begin: {reason[:1].lower()}{reason[1:]} Schedule it again."
    end_window(window=window, state=WindowState.MISSED, code="missed", why=why, now=now)


def _wait(window: Window, *, why: str) -> None:
    if window.why != why:
        window.why = why
        window.save(update_fields=["why"])
