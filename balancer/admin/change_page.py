"""Everything that the page of a change shows, put into words, chips and rows for its template."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from balancer.admin import chips
from balancer.admin.change_deeds import password_needed, sign_shown
from balancer.admin.change_words import missing_buttons
from balancer.admin.evidence import evidence_rows
from balancer.admin.field_words import describe_fields
from balancer.admin.history import events_about
from balancer.admin.operating import in_force
from balancer.admin.overtaken import describe_clashes
from balancer.admin.rehearsals import describe_rehearsals
from balancer.admin.shares import compare_shares
from balancer.admin.stakes import describe_stakes
from balancer.admin.times import next_hours
from balancer.domain.lifecycle import CHANGE_CLOSED
from balancer.models import Change, LateReview
from balancer.workflow import queries
from balancer.workflow.late_reviews import late_review_of


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
        **rehearsal_context(change),
        "hints": missing_buttons(view=view, user=request.user),
        "closed": change.state in CHANGE_CLOSED,
        "progress": progress,
        "jobs": job_chips(progress),
        "password_needed": password_needed(request),
        "times": next_hours() if view.actions.schedule else (),
        "zone": timezone.get_current_timezone_name(),
        "shown": sign_shown(view.shown) if view.actions.approve else "",
        "late_review": _late_review(view),
        "restored": _restored_of(change),
        "events": events_about(change=change),
        **_overrides(request, view),
        "evidence": evidence_rows(request, change),
    }


def _overrides(request: HttpRequest, view: queries.ChangeView) -> dict[str, Any]:
    """They are no part of a change, and whoever judges one should know what the nodes make of it."""
    if view.change.state in CHANGE_CLOSED:
        return {}
    words = (
        "They are no part of this change and stay in force when it is applied: the rules of the nodes differ"
        " by them from what is shown here."
    )
    found = in_force(request, view.change.cluster)
    empty = queries.services_left_empty(change=view.change) if found["overrides"] else ()
    return found | {"overrides_words": words, "left_empty": empty}


def _late_review(view: queries.ChangeView) -> LateReview | None:
    if view.emergency is None:
        return None
    return late_review_of(kind=LateReview.Kind.EMERGENCY, subject_id=view.emergency.pk)


def rehearsal_context(change: Change) -> dict[str, Any]:
    """What console/rehearsal.html needs."""
    view = queries.view_rehearsals(change)
    return {"rehearsing": view, "rehearsals": describe_rehearsals(view.rehearsals)}


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
