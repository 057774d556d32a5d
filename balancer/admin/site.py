"""What every page of the console shares: how it is rendered, and how a deed is done and answered."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import Count, Model, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from balancer.models import AuditEvent
from balancer.workflow.errors import Refused

Crumb = tuple[str, str]
"""A label and the address that it leads to; no address for the page itself."""

PER_PAGE = 50


class ConsoleAdmin(ModelAdmin):
    """A model that people see here and change only through `balancer.workflow`, never through this form."""

    list_per_page = PER_PAGE
    list_max_show_all = PER_PAGE
    show_full_result_count = False
    actions = None
    list_disable_select_all = True
    list_display_links = None
    """Every first column brings its own link; Django would wrap that in another one."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = str(self.opts.verbose_name_plural).capitalize()
        return super().changelist_view(
            request, {"title": title, "crumbs": [(title, "")], **(extra_context or {})}
        )

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Django's own log of a row is not written here; ours is."""
        return HttpResponseRedirect(list_address(AuditEvent))

    def find(self, request: HttpRequest, object_id: str) -> Any:
        """The row, or None where there is none that this person may see."""
        row = self.get_object(request, object_id)
        return row if row is not None and self.has_view_permission(request, row) else None

    def answer_missing(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Where a row is not there (any more): a sentence and the list, as Django's admin does."""
        return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)

    def render(
        self,
        request: HttpRequest,
        template: str,
        *,
        title: str,
        crumbs: Iterable[Crumb] = (),
        status: int = 200,
        **context: Any,
    ) -> HttpResponse:
        name = str(self.opts.verbose_name_plural).capitalize()
        trail = [(name, list_address(self.opts.model)), *crumbs]
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        page = {**self.admin_site.each_context(request), "title": title, "crumbs": trail, **context}
        return TemplateResponse(request, f"console/{template}", page, status=status)


def actor_of(request: HttpRequest) -> User:
    """The person who is logged in; every view of the console asks for a login first."""
    assert isinstance(request.user, User)
    return request.user


def perform(
    request: HttpRequest,
    deed: Callable[[], Any],
    *,
    done: str,
    then: str | Callable[[Any], str],
    back: str = "",
) -> HttpResponseRedirect:
    """Do a deed of the workflow and go to `then`; where it is refused, say why and go `back`."""
    try:
        result = deed()
    except Refused as refusal:
        messages.error(request, refusal.message)
        return HttpResponseRedirect(back or (then if isinstance(then, str) else reverse("admin:index")))
    messages.success(request, done)
    return HttpResponseRedirect(then if isinstance(then, str) else then(result))


def list_address(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def page_address(row: Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def texts_of(*relations: str) -> list[str]:
    """The long fields of related revisions, for `defer`: what shows a number must not load megabytes."""
    return [f"{relation}__{field}" for relation in relations for field in ("document", "rulesets")]


def count_rows(model: type[Model], field: str) -> Coalesce:
    """How many rows of the model point here with the field; counted beside the list, not joined into it."""
    inside = model._default_manager.filter(**{field: OuterRef("pk")}).order_by().values(field)
    return Coalesce(Subquery(inside.annotate(found=Count("pk")).values("found")), 0)


def read_key(text: str | None) -> int | None:
    """The key of a row that somebody sent, or None where it is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 18 else None


def show_moment(moment: datetime) -> SafeString:
    """To the second and in UTC, as every time in the console."""
    return format_html(
        '<time class="lb-nowrap" datetime="{}">{}</time>', moment.isoformat(), f"{moment:%-d %b %Y, %H:%M:%S}"
    )


register = admin.register
