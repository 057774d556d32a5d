"""Everything that the page of a change shows, put into words, chips and rows for its template."""

from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString

from balancer.admin import chips
from balancer.admin.change_deeds import password_needed, sign_shown
from balancer.admin.change_words import missing_buttons
from balancer.admin.field_words import describe_fields
from balancer.admin.history import events_about
from balancer.admin.overtaken import describe_clashes
from balancer.admin.shares import compare_shares
from balancer.admin.stakes import describe_stakes
from balancer.domain.lifecycle import CHANGE_CLOSED
from balancer.models import Change
from balancer.workflow import queries


def page_context(request: HttpRequest, change: Change) -> dict[str, Any]:
    view = queries.view_change(change=change, user=request.user)
    progress = queries.view_deployment(deployment=view.deployment) if view.deployment else None
    return {
        "change": change,
        "view": view,
        "state": chips.change_chip(change.state),
        "drafts": [_show_draft(draft) for draft in view.drafts],
        "moves": [_show_move(move) for move in view.moves],
        "errors": view.problems,
        "warnings": view.shown.warnings,
        "stakes": describe_stakes(view.shown.stakes),
        "hints": missing_buttons(view=view, user=request.user),
        "closed": change.state in CHANGE_CLOSED,
        "progress": progress,
        "jobs": job_chips(progress),
        "password_needed": password_needed(request),
        "shown": sign_shown(view.shown) if view.actions.approve else "",
        "restored": _restored_of(change),
        "events": events_about(change=change),
    }


def job_chips(
    progress: queries.DeploymentView | None,
) -> list[tuple[queries.JobView, SafeString]]:
    return [(job, chips.work_chip(job.state)) for job in progress.jobs] if progress else []


def _restored_of(change: Change) -> list[queries.RestoredView]:
    """Nodes that went back by themselves while this change was applied."""
    found = queries.list_restored(cluster=change.cluster)
    return [view for view in found if view.change is not None and view.change.pk == change.pk]


def _show_draft(draft: queries.DraftView) -> dict[str, Any]:
    return {
        "draft": draft,
        "chip": chips.draft_chip(draft.action),
        "shares": compare_shares(draft.shares),
        "fields": describe_fields(draft.fields),
        "pk": draft.key,
    }


def _show_move(move: queries.Move) -> dict[str, Any]:
    return {
        "name": move.service_name,
        "live": describe_fields(move.live),
        "clashes": describe_clashes(move.clashes),
        "result": describe_fields(move.result),
    }
