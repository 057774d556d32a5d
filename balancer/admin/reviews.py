"""What a reviewer was shown when they voted, as it was then."""

from fractions import Fraction
from typing import Any

from django.http import HttpRequest, HttpResponse
from unfold.decorators import display

from balancer.admin import chips
from balancer.admin.field_words import describe_fields
from balancer.admin.rehearsals import describe_rehearsals
from balancer.admin.shares import compare_shares
from balancer.admin.site import ConsoleAdmin, page_address, register
from balancer.admin.stakes import describe_stakes
from balancer.domain.diff import FieldChange
from balancer.domain.policy import ApprovalPolicy, describe_policy
from balancer.models import Review
from balancer.workflow.queries import ShareRow
from balancer.workflow.traffic import mark_rows, service_value


@register(Review)
class ReviewAdmin(ConsoleAdmin):
    list_display = ("show_digest", "change", "created_at")
    list_filter = ("change__cluster",)
    search_fields = ("digest", "change__title")
    search_help_text = "Digest or change"
    ordering = ("-pk",)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        review = self.find(request, object_id)
        if review is None:
            return self.answer_missing(request, object_id)
        votes = review.votes.select_related("user").order_by("pk")
        return self.render(
            request,
            "review.html",
            title=f"What was seen of {review.change}",
            crumbs=[(f"#{review.change_id}", page_address(review.change)), (review.digest[:12], "")],
            review=review,
            content=review.content,
            policy=describe_policy(_policy_of(review.content["policy"])),
            services=[_show_service(service) for service in review.content["services"]],
            stakes=describe_stakes(review.content["stakes"]),
            # Those of older versions have none.
            rehearsals=describe_rehearsals(review.content.get("rehearsals", ())),
            votes=votes,
        )

    @display(description="Review", ordering="digest")
    def show_digest(self, row: Review) -> Any:
        return chips.link(page_address(row), row.digest[:12])


def _policy_of(data: dict[str, Any]) -> ApprovalPolicy:
    return ApprovalPolicy(**{**data, "groups": tuple(data["groups"])})


def _show_service(data: dict[str, Any]) -> dict[str, Any]:
    fields = [FieldChange(f["path"], f["before"], f["after"]) for f in data["fields"]]
    traffic = [
        ShareRow(endpoint=row["backend"], before=_share(row["before"]), after=_share(row["after"]))
        for row in data["traffic"]
    ]
    return {
        "name": data["name"],
        "action": data["action"],
        "chip": chips.draft_chip(data["action"]),
        "fields": describe_fields(fields),
        "shares": compare_shares(mark_rows(traffic, service_value(data["after"]))),
        "rules": data["rules"],
    }


def _share(text: str | None) -> Fraction | None:
    return None if text is None else Fraction(text)
