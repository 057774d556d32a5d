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
from balancer.admin.change_page import job_chips, page_context
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
from balancer.workflow.errors import Refused
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
            path("<int:change_id>/cancel/", site(self.cancel_view), name="balancer_change_cancel"),
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
        return self._show(request, change, typed=typed)

    def cancel_view(self, request: HttpRequest, change_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        change = self.find(request, str(change_id))
        deployment = _latest_deployment(change)
        if change is None or deployment is None:
            return self.answer_missing(request, str(change_id))
        return perform(
            request,
            lambda: deployments.cancel_deployment(actor=actor_of(request), deployment=deployment),
            done="Cancelled. Nodes that had begun are put back to what was live.",
            then=page_address(change),
        )

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
            "can_confirm": self._can_confirm(request, progress),
        }
        return TemplateResponse(request, "console/progress.html", context)

    def _can_confirm(self, request: HttpRequest, progress: queries.DeploymentView | None) -> bool:
        return progress is not None and progress.can_confirm and may(actor=request.user, permission=APPLY)

    def _can_cancel(self, request: HttpRequest, progress: queries.DeploymentView | None) -> bool:
        return progress is not None and progress.can_cancel and may(actor=request.user, permission=APPLY)

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


def _latest_deployment(change: Change | None) -> Deployment | None:
    return (
        change.deployments.select_related("revision", "cluster").order_by("-pk").first() if change else None
    )
