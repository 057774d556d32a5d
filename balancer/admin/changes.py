"""Changes: what is proposed, what it would do to the traffic, and the buttons that bring it forward."""

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from balancer.admin import chips
from balancer.admin.change_deeds import DEEDS, TYPED
from balancer.admin.change_page import job_chips, page_context, rehearsal_context
from balancer.admin.evidence import send_evidence
from balancer.admin.site import (
    ConsoleAdmin,
    actor_of,
    count_rows,
    page_address,
    perform,
    register,
    show_moment,
    texts_of,
)
from balancer.models import Change, Deployment, Draft
from balancer.workflow import confirmations, deployments, queries
from balancer.workflow.errors import Invalid, Refused
from balancer.workflow.permissions import APPLY, may


@register(Change)
class ChangeAdmin(ConsoleAdmin):
    list_display = ("show_number", "show_title", "show_state", "show_author", "show_size", "show_time")
    list_filter = ("state", "kind", "cluster", "author")
    search_fields = ("title", "description", "author__username", "drafts__service_name")
    search_help_text = "Title, author or service"
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Change]:
        related = ("base_revision", "rollback_of")
        found = super().get_queryset(request).select_related("author", "cluster", *related)
        return found.defer(*texts_of(*related)).annotate(size=count_rows(Draft, "change"))

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [
            path("<int:change_id>/progress/", site(self.progress_view), name="balancer_change_progress"),
            path("<int:change_id>/rehearsal/", site(self.rehearsal_view), name="balancer_change_rehearsal"),
            path("<int:change_id>/cancel/", site(self.cancel_view), name="balancer_change_cancel"),
            path(
                "<int:change_id>/evidence/<int:deployment_id>/",
                site(self.evidence_view),
                name="balancer_change_evidence",
            ),
            path("<int:change_id>/confirm/", site(self.confirm_view), name="balancer_change_confirm"),
            path("<int:change_id>/do/<slug:deed>/", site(self.deed_view), name="balancer_change_do"),
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        change = self.find(request, object_id)
        if change is None:
            return self.answer_missing(request, object_id)
        return self._show(request, change)

    def _show(self, request: HttpRequest, change: Change, **more: Any) -> HttpResponse:
        context = page_context(request, change) | more
        return self.render(
            request,
            "change.html",
            title=change.title,
            crumbs=[(f"#{change.pk}", "")],
            can_cancel=self._can_cancel(request, context["progress"]),
            may_cancel=_runs(context["progress"]) and may(actor=request.user, permission=APPLY),
            can_confirm=self._can_confirm(request, context["progress"]),
            **context,
        )

    def deed_view(self, request: HttpRequest, change_id: int, deed: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        change = self.find(request, str(change_id))
        if change is None or deed not in DEEDS:
            return self.answer_missing(request, str(change_id))
        chosen = DEEDS[deed]
        try:
            chosen.do(request, change)
        except Refused as refusal:
            return self._answer_refused(request, change, refusal)
        messages.success(request, chosen.done)
        return HttpResponseRedirect(page_address(change))

    def _answer_refused(self, request: HttpRequest, change: Change, refusal: Refused) -> HttpResponse:
        """Back to the page, with the reason; where something was typed, with that still in its field."""
        messages.error(request, refusal.message)
        typed = {name: request.POST.get(name, "") for name in TYPED}
        if not any(typed.values()) or not request.user.is_authenticated:
            return HttpResponseRedirect(page_address(change))
        errors = refusal.fields if isinstance(refusal, Invalid) else {}
        return self._show(request, change, typed=typed, field_errors=errors)

    def cancel_view(self, request: HttpRequest, change_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        change = self.find(request, str(change_id))
        deployment = _latest_deployment(change)
        if change is None or deployment is None:
            return self.answer_missing(request, str(change_id))
        try:
            cancelled = deployments.cancel_deployment(actor=actor_of(request), deployment=deployment)
        except Refused as refusal:
            messages.error(request, refusal.message)
        else:
            after = queries.view_deployment(deployment=cancelled)
            messages.success(request, after.cancelling or cancelled.error)
        return HttpResponseRedirect(page_address(change))

    def confirm_view(self, request: HttpRequest, change_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        change = self.find(request, str(change_id))
        deployment = _latest_deployment(change)
        if change is None or deployment is None:
            return self.answer_missing(request, str(change_id))
        return perform(
            request,
            lambda: confirmations.confirm_deployment(actor=actor_of(request), deployment=deployment),
            done="Confirmed. Each node that waited makes it final now.",
            then=page_address(change),
        )

    def progress_view(self, request: HttpRequest, change_id: int) -> HttpResponse:
        """A piece of the page, polled while a deployment runs; afterwards the page is loaded anew."""
        change = self.find(request, str(change_id))
        deployment = _latest_deployment(change)
        if change is None or deployment is None:
            return HttpResponse("", status=404)
        progress = queries.view_deployment(deployment=deployment)
        if not progress.active:
            return HttpResponse("", headers={"HX-Refresh": "true"})
        context = {
            "change": change,
            "progress": progress,
            "jobs": job_chips(progress),
            "can_cancel": self._can_cancel(request, progress),
            "may_cancel": progress.running and may(actor=request.user, permission=APPLY),
            "can_confirm": self._can_confirm(request, progress),
        }
        return TemplateResponse(request, "console/progress.html", context)

    def rehearsal_view(self, request: HttpRequest, change_id: int) -> HttpResponse:
        """A piece of the page, polled while a rehearsal runs; afterwards the page is loaded anew.

        Not from under somebody's hands: where a comment was begun (`TYPED`), the piece says what to do.
        """
        change = self.find(request, str(change_id))
        if change is None:
            return HttpResponse("", status=404)
        context = rehearsal_context(change)
        typed = any(request.GET.get(name, "").strip() for name in TYPED)
        if not context["rehearsing"].active and not typed:
            return HttpResponse("", headers={"HX-Refresh": "true"})
        over = not context["rehearsing"].active
        return TemplateResponse(
            request, "console/rehearsal.html", {"change": change, "over": over, **context}
        )

    def evidence_view(self, request: HttpRequest, change_id: int, deployment_id: int) -> HttpResponse:
        change = self.find(request, str(change_id))
        found = send_evidence(request, change=change, deployment_id=deployment_id) if change else None
        return found or self.answer_missing(request, str(change_id))

    def _can_confirm(self, request: HttpRequest, progress: queries.DeploymentView | None) -> bool:
        return progress is not None and progress.can_confirm and may(actor=request.user, permission=APPLY)

    def _can_cancel(self, request: HttpRequest, progress: queries.DeploymentView | None) -> bool:
        return progress is not None and progress.cancel.possible and may(actor=request.user, permission=APPLY)

    @display(description="No.", ordering="pk")
    def show_number(self, row: Change) -> SafeString:
        return format_html('<span class="lb-mono">#{}</span>', row.pk)

    @display(description="Title", ordering="title")
    def show_title(self, row: Change) -> SafeString:
        return format_html('<a class="lb-plain" href="{}">{}</a>', page_address(row), row.title)

    @display(description="State", ordering="state")
    def show_state(self, row: Change) -> SafeString:
        return chips.change_chip(row.state)

    @display(description="Author", ordering="author__username")
    def show_author(self, row: Change) -> str:
        return row.author.get_username()

    @display(description="Last touched", ordering="updated_at")
    def show_time(self, row: Change) -> SafeString:
        return show_moment(row.updated_at)

    @display(description="Services")
    def show_size(self, row: Any) -> int:
        return row.size


def _runs(progress: queries.DeploymentView | None) -> bool:
    return progress is not None and progress.running


def _latest_deployment(change: Change | None) -> Deployment | None:
    return (
        change.deployments.select_related("revision", "cluster").order_by("-pk").first() if change else None
    )
