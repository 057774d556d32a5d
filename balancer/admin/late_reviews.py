"""What was done without a review, and the signatures that it asks for; the list of overrides beside it."""

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.views import ChangeList

from balancer.admin import chips
from balancer.admin.change_deeds import password_at, password_needed, prove_typed
from balancer.admin.operating import override_chip, signature_chip
from balancer.admin.site import (
    ConsoleAdmin,
    actor_of,
    list_address,
    page_address,
    perform,
    register,
    show_moment,
)
from balancer.models import LateReview, Override, Service
from balancer.workflow import late_reviews, overrides, queries
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import OPERATE, may


class LateReviewList(ChangeList):
    """A page of late reviews, each with what it is about: two queries for the whole page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = list(self.result_list)
        for row, found in zip(rows, queries.describe_late_reviews(rows), strict=True):
            row.words = found.words
        self.result_list = rows


@register(LateReview)
class LateReviewAdmin(ConsoleAdmin):
    list_display = ("show_what", "show_signature", "show_time", "show_reason")
    list_filter = ("kind", "cluster", "opened_by")
    search_fields = ("reason", "opened_by__username", "signed_by__username", "comment")
    search_help_text = "Reason, comment or person"
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[LateReview]:
        return super().get_queryset(request).select_related("cluster", "opened_by", "signed_by")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LateReviewList

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [path("<int:review_id>/sign/", site(self.sign_view), name="balancer_latereview_sign")]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        review = self.find(request, object_id)
        if review is None:
            return self.answer_missing(request, object_id)
        return show_late_review(self, request, review)

    def sign_view(self, request: HttpRequest, review_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        review = self.find(request, str(review_id))
        if review is None:
            return self.answer_missing(request, str(review_id))
        comment = request.POST.get("comment", "")
        try:
            prove_typed(request)
            late_reviews.sign_late_review(
                actor=actor_of(request), review=review, password_at=password_at(request), comment=comment
            )
        except Refused as refusal:
            messages.error(request, refusal.message)
            if not comment or not request.user.is_authenticated:
                return HttpResponseRedirect(page_address(review))
            return show_late_review(self, request, review, typed={"comment": comment})
        messages.success(request, "Signed. What was done stays as it is; your name stands under it.")
        return HttpResponseRedirect(page_address(review))

    @display(description="What was done", ordering="pk")
    def show_what(self, row: Any) -> SafeString:
        return format_html(
            '<a class="lb-plain" href="{}">{} {}</a>',
            page_address(row),
            row.opened_by.get_username(),
            row.words,
        )

    @display(description="Reason")
    def show_reason(self, row: LateReview) -> str:
        return row.reason

    @display(description="Signature", ordering="signed_at")
    def show_signature(self, row: LateReview) -> SafeString:
        if row.signed_by is None:
            return signature_chip(signed=False)
        return chips.chip(f"Signed by {row.signed_by.get_username()}", "ok", "verified")

    @display(description="Done at", ordering="opened_at")
    def show_time(self, row: LateReview) -> SafeString:
        return show_moment(row.opened_at)


@register(Override)
class OverrideAdmin(ConsoleAdmin):
    list_display = ("show_what", "show_service", "show_by", "show_time", "show_end", "show_reason")
    list_filter = ("kind", "cluster", "set_by")
    search_fields = ("service_name", "address", "reason", "set_by__username")
    search_help_text = "Service, backend, reason or person"
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Override]:
        found = super().get_queryset(request).select_related("cluster", "set_by", "lifted_by", "revision")
        return found.defer("revision__document", "revision__rulesets")

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [path("<int:override_id>/lift/", site(self.lift_view), name="balancer_override_lift")]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """The page of its late review says all that there is to say about it."""
        row = self.find(request, object_id)
        review = row and late_reviews.late_review_of(kind=LateReview.Kind.OVERRIDE, subject_id=row.pk)
        if review is None:
            return self.answer_missing(request, object_id)
        return show_late_review(self, request, review)

    def lift_view(self, request: HttpRequest, override_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        row = self.find(request, str(override_id))
        if row is None:
            return self.answer_missing(request, str(override_id))
        return perform(
            request,
            lambda: overrides.lift_override(actor=actor_of(request), override=row),
            done=f"Lifted. {row.endpoint} is as approved again; the nodes get it within seconds.",
            then=service_address(row) or list_address(Override),
        )

    @display(description="Override", ordering="pk")
    def show_what(self, row: Override) -> SafeString:
        return format_html('<a class="lb-plain" href="{}">{}</a>', page_address(row), row.words.capitalize())

    @display(description="Backend", ordering="service_name")
    def show_service(self, row: Override) -> SafeString:
        return format_html(
            '<span><span class="lb-mono">{}</span> of {}</span>', row.endpoint, row.service_name
        )

    @display(description="Reason")
    def show_reason(self, row: Override) -> str:
        return row.reason

    @display(description="Set by", ordering="set_by__username")
    def show_by(self, row: Override) -> str:
        return row.set_by.get_username()

    @display(description="Set at", ordering="set_at")
    def show_time(self, row: Override) -> SafeString:
        return show_moment(row.set_at)

    @display(description="State", ordering="lifted_at")
    def show_end(self, row: Override) -> SafeString:
        if row.lifted_by is None:
            return chips.chip("In force", "warn", "build")
        return chips.chip(f"Lifted by {row.lifted_by.get_username()}", "idle")


def show_late_review(
    page: ConsoleAdmin, request: HttpRequest, review: LateReview, typed: dict[str, str] | None = None
) -> HttpResponse:
    (found,) = queries.describe_late_reviews([review])
    why_not = late_reviews.why_not_sign(person=actor_of(request), review=review)
    override = found.override
    return page.render(
        request,
        "late_review.html",
        title=f"{review.opened_by.get_username()} {found.words}",
        crumbs=[(f"Late review {review.pk}", "")],
        review=review,
        subject=found,
        signature=signature_chip(signed=review.signed),
        chip=override_chip(override) if override else "",
        service=service_address(override) if override else "",
        lines=queries.diff_override(override) if override else (),
        may_lift=override is not None
        and override.lifted_at is None
        and may(actor=request.user, permission=OPERATE),
        why_not_sign=why_not if review.signed_by is None else "",
        password_needed=password_needed(request),
        typed=typed,
    )


def service_address(row: Override) -> str:
    """Of the service's page; empty where no such service is live."""
    service = Service.objects.filter(cluster=row.cluster_id, name=row.service_name).first()
    return page_address(service) if service else ""
