"""When changes are applied and when none is, for the pages."""

from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from balancer.domain.lifecycle import CHANGE_OPEN, WINDOW_ACTIVE, WindowState
from balancer.models import Change, Cluster, Freeze, Vote, Window
from balancer.workflow.freezes import describe_freeze, find_freeze, freezes_of
from balancer.workflow.schedules import find_window

_STOPPED = (WindowState.STOPPED, WindowState.MISSED)


@dataclass(frozen=True, slots=True)
class FreezeView:
    freeze: Freeze
    holds: bool
    """Now; otherwise it is to come."""
    windows: int
    """Windows that lie in it and will stop."""


@dataclass(frozen=True, slots=True)
class WindowView:
    """A window of a change that is to come, or open."""

    window: Window
    open: bool
    warnings: tuple[str, ...]
    """What will stop it, as far as can be told beforehand."""


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """What a change's page says about time."""

    freezes: tuple[FreezeView, ...]
    window: WindowView | None
    stopped: Window | None
    """Its last window, where that was stopped or missed and nothing has happened since."""


def view_schedule(*, change: Change, now: datetime | None = None) -> ScheduleView:
    now = now or timezone.now()
    window = find_window(change)
    return ScheduleView(
        freezes=view_freezes(cluster=change.cluster, now=now),
        window=_view_window(window, now=now) if window is not None else None,
        stopped=_find_stopped(change) if window is None else None,
    )


def view_freezes(*, cluster: Cluster, now: datetime | None = None) -> tuple[FreezeView, ...]:
    """Those that hold or are to come."""
    now = now or timezone.now()
    return tuple(
        FreezeView(freeze=freeze, holds=freeze.starts_at <= now, windows=_count_windows(freeze))
        for freeze in freezes_of(cluster=cluster, now=now)
    )


def coming_windows(*, cluster: Cluster) -> tuple[Window, ...]:
    found = Window.objects.filter(change__cluster=cluster, state__in=WINDOW_ACTIVE)
    return tuple(found.select_related("change", "requested_by").order_by("starts_at", "pk"))


def stopped_windows(*, cluster: Cluster) -> tuple[Window, ...]:
    """Those that somebody has to look at: nothing has happened to their change since."""
    changes = Change.objects.filter(
        cluster=cluster, state__in=CHANGE_OPEN, windows__state__in=_STOPPED
    ).distinct()
    found = [_find_stopped(change) for change in changes.order_by("pk")]
    return tuple(window for window in found if window is not None)


def _find_stopped(change: Change) -> Window | None:
    last = (
        Window.objects.filter(change=change).select_related("change", "requested_by").order_by("-pk").first()
    )
    if last is None or last.state not in _STOPPED or last.finished_at is None:
        return None
    return None if change.deployments.filter(created_at__gt=last.finished_at).exists() else last


def _view_window(window: Window, *, now: datetime) -> WindowView:
    return WindowView(window=window, open=window.starts_at <= now, warnings=_warn(window))


def _warn(window: Window) -> tuple[str, ...]:
    warnings = []
    freeze = find_freeze(cluster=window.change.cluster, starts_at=window.starts_at, ends_at=window.ends_at)
    if freeze is not None:
        warnings.append(f"It stops if it comes to the freeze before it has begun. {describe_freeze(freeze)}")
    policy = window.change.cluster.policy
    votes = Vote.objects.filter(change=window.change, verdict=Vote.Verdict.APPROVE).select_related("user")
    for vote in votes:
        if policy.has_expired(at=vote.at, now=window.starts_at):
            warnings.append(
                f"The approval by {vote.user.get_username()} will have expired when it begins, and it will"
                " stop then unless it is approved again after that."
            )
    return tuple(warnings)


def _count_windows(freeze: Freeze) -> int:
    found = Window.objects.filter(
        state__in=WINDOW_ACTIVE, starts_at__lt=freeze.ends_at, ends_at__gt=freeze.starts_at
    )
    return (found.filter(change__cluster=freeze.cluster) if freeze.cluster else found).count()
