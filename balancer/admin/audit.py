"""The audit history, to read, filter, search and take away."""

import json
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.http.response import StreamingHttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from balancer.admin import chips
from balancer.admin.audit_export import WRITERS, file_name
from balancer.admin.history import address_of, describe_event, tone_of, words_of
from balancer.admin.site import ConsoleAdmin, list_address, page_address, register, show_moment
from balancer.models import AuditEvent
from balancer.workflow.audit import Action
from balancer.workflow.history import read_events

_CHIP_TONE = {"ok": "ok", "bad": "bad", "info": "info"}


class ActionFilter(admin.SimpleListFilter):
    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("refused", "Refused deeds"),
            *((str(a), words_of(str(a)).capitalize()) for a in sorted(Action)),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        wanted = self.value()
        if wanted == "refused":
            return queryset.filter(action__endswith=".refused")
        return queryset.filter(action=wanted) if wanted else queryset


class ActorFilter(admin.SimpleListFilter):
    title = "actor"
    parameter_name = "actor"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = AuditEvent.objects.order_by("actor_name").values_list("actor_name", flat=True).distinct()
        return [(name, name) for name in names[:100]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(actor_name=self.value()) if self.value() else queryset


class ObjectFilter(admin.SimpleListFilter):
    title = "object"
    parameter_name = "object"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        kinds = ("change", "deployment", "job", "revision", "node", "cluster", "user")
        return [(kind, kind.capitalize()) for kind in kinds]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        return queryset.filter(object_type=self.value()) if self.value() else queryset


class TimeFilter(admin.SimpleListFilter):
    title = "time"
    parameter_name = "since"
    periods = {
        "hour": ("Last hour", timedelta(hours=1)),
        "day": ("Last 24 hours", timedelta(days=1)),
        "week": ("Last 7 days", timedelta(days=7)),
        "month": ("Last 30 days", timedelta(days=30)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, words) for name, (words, _) in self.periods.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        _, period = self.periods.get(self.value() or "", ("", None))
        return queryset if period is None else queryset.filter(at__gte=timezone.now() - period)


@register(AuditEvent)
class AuditAdmin(ConsoleAdmin):
    list_display = ("show_time", "show_actor", "show_action", "show_object", "show_detail")
    list_filter = (TimeFilter, ActionFilter, ActorFilter, ObjectFilter)
    list_before_template = "console/export.html"
    search_fields = ("actor_name", "action", "object_label", "source")
    search_help_text = "Actor, action, object or source address"
    ordering = ("-pk",)

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                f"export.{kind}",
                self.admin_site.admin_view(self.export_view),
                {"kind": kind},
                name=f"balancer_auditevent_export_{kind}",
            )
            for kind in WRITERS
        ]
        return own + super().get_urls()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        asked = request.GET.copy()
        asked.pop("p", None)  # the page: an export has them all
        context = {"export_query": asked.urlencode(), **(extra_context or {})}
        return super().changelist_view(request, context)

    def export_view(self, request: HttpRequest, kind: str) -> HttpResponseBase:
        """What the list shows under the same query, all pages of it, oldest first."""
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET", "HEAD"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            chosen = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            return HttpResponseRedirect(list_address(AuditEvent))
        content_type, write = WRITERS[kind]
        name = file_name(kind=kind, now=timezone.now())
        return StreamingHttpResponse(
            write(read_events(chosen)),
            content_type=content_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
        )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        event = self.find(request, object_id)
        if event is None:
            return self.answer_missing(request, object_id)
        around = Q(object_type=event.object_type, object_id=event.object_id)
        near = AuditEvent.objects.filter(around).exclude(pk=event.pk) if event.object_id else []
        return self.render(
            request,
            "event.html",
            title=event.action,
            crumbs=[(f"Event {event.number}", "")],
            event=event,
            line=describe_event(event),
            facts=json.dumps(event.facts, indent=2, sort_keys=True, ensure_ascii=False),
            near=[describe_event(other) for other in near[:10]],
        )

    @display(description="Time", ordering="at")
    def show_time(self, row: AuditEvent) -> SafeString:
        return format_html('<a class="lb-plain" href="{}">{}</a>', page_address(row), show_moment(row.at))

    @display(description="Actor", ordering="actor_name")
    def show_actor(self, row: AuditEvent) -> str:
        return row.actor_name

    @display(description="Action", ordering="action")
    def show_action(self, row: AuditEvent) -> SafeString:
        return chips.chip(row.action, _CHIP_TONE.get(tone_of(row.action), "idle"))

    @display(description="Object", ordering="object_label")
    def show_object(self, row: AuditEvent) -> SafeString | str:
        address = address_of(row)
        if not address:
            return row.object_label
        return format_html('<a class="lb-plain" href="{}">{}</a>', address, row.object_label)

    @display(description="Detail")
    def show_detail(self, row: AuditEvent) -> str:
        return describe_event(row).detail
