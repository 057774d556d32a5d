"""States in words and colour, the same on every page."""

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from balancer.domain.lifecycle import ChangeState
from balancer.domain.types import BackendState
from balancer.models import Draft, Node
from balancer.workflow.presence import is_absent
from balancer.workflow.queries import DrillState, DrillView

_CHANGE = {
    ChangeState.DRAFT: ("Draft", "idle", "edit"),
    ChangeState.SUBMITTED: ("In review", "info", "rate_review"),
    ChangeState.APPROVED: ("Approved", "ok", "verified"),
    ChangeState.REJECTED: ("Rejected", "bad", "block"),
    ChangeState.CHANGES_REQUESTED: ("Changes requested", "warn", "assignment_return"),
    ChangeState.APPLYING: ("Applying", "info busy", "progress_activity"),
    ChangeState.APPLIED: ("Applied", "ok", "check_circle"),
    ChangeState.FAILED: ("Failed", "bad", "error"),
    ChangeState.DISCARDED: ("Discarded", "idle", "delete"),
}
_WORK = {
    "queued": ("Queued", "idle", "schedule"),
    "running": ("Running", "info busy", "progress_activity"),
    "unconfirmed": ("Not confirmed yet", "warn", "timer"),
    "rolled-back": ("Rolled back", "bad", "settings_backup_restore"),
    "succeeded": ("Succeeded", "ok", "check_circle"),
    "passed": ("Passed", "ok", "check_circle"),
    "failed": ("Failed", "bad", "error"),
    "cancelled": ("Cancelled", "idle", "cancel"),
    "skipped": ("Left out", "warn", "cloud_off"),
}
_DRAFT = {
    Draft.Action.CREATE: ("New", "ok", "add"),
    Draft.Action.MODIFY: ("Modified", "info", "edit"),
    Draft.Action.DELETE: ("Deleted", "bad", "delete"),
}
_DRILL = {
    DrillState.NEVER: ("idle", "help"),
    DrillState.PROVEN: ("ok", "settings_backup_restore"),
    DrillState.FAILED: ("bad", "error"),
}
_BACKEND_DOT = {
    str(BackendState.ENABLED): "ok",
    str(BackendState.DRAINING): "warn",
    str(BackendState.DISABLED): "idle",
    "down": "bad",
}


def chip(text: str, tone: str = "idle", icon: str = "") -> SafeString:
    """`tone`: idle, info, ok, warn, bad, with " busy" behind it where the icon turns."""
    classes = " ".join(f"lb-chip--{word}" for word in tone.split())
    symbol = _symbol(icon) if icon else ""
    return format_html('<span class="lb-chip {}">{}{}</span>', classes, symbol, text)


def change_chip(state: str) -> SafeString:
    return chip(*_CHANGE[ChangeState(state)])


def work_chip(state: str) -> SafeString:
    """Of a job, a deployment or a rehearsal."""
    return chip(*_WORK[state])


def draft_chip(action: str) -> SafeString:
    return chip(*_DRAFT[Draft.Action(action)])


def enabled_chip(enabled: bool) -> SafeString:
    return chip("Enabled", "ok") if enabled else chip("Disabled", "idle")


def critical_chip() -> SafeString:
    return chip("Critical", "warn", "priority_high")


def overridden_chip(count: int) -> SafeString:
    return chip(f"{count} override{'s' if count > 1 else ''}", "warn", "build")


def backend_dot(state: str) -> SafeString:
    """A dot in the colour of the state; the state in words for those who cannot see it."""
    return format_html(
        '<span class="lb-dot lb-dot--{}" aria-hidden="true"></span><span class="lb-hidden">{}</span>',
        _BACKEND_DOT[state],
        state,
    )


def node_chip(node: Node) -> SafeString:
    """Whether its worker is heard of."""
    if node.last_seen is None:
        return chip("Never seen", "idle", "help")
    return (
        chip("Silent", "bad", "cloud_off")
        if is_absent(node=node, now=timezone.now())
        else chip("Online", "ok", "check_circle")
    )


def sync_chip(node: Node) -> SafeString:
    """Whether the kernel carries what it should."""
    if node.in_sync is None:
        return chip("Not checked", "idle", "help")
    return chip("In sync", "ok", "sync") if node.in_sync else chip("Differs", "bad", "sync_problem")


def drill_chip(drill: DrillView) -> SafeString:
    """Whether the node has proven that it goes back by itself."""
    tone, icon = _DRILL[drill.state]
    if drill.overdue and drill.state is not DrillState.FAILED:
        tone, icon = "warn", "timer"
    return chip(f"{drill.words}{', overdue' if drill.overdue else ''}", tone, icon)


def live_chip() -> SafeString:
    return chip("Live", "ok", "bolt")


def _symbol(name: str) -> SafeString:
    return format_html('<span class="material-symbols-outlined" aria-hidden="true">{}</span>', name)


def link(address: str, text: str) -> SafeString:
    """The link of a list's first column."""
    return format_html('<a class="lb-plain lb-mono" href="{}">{}</a>', address, text)
