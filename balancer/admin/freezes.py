"""Freezes: a card on the page of a cluster, a form for administrators, and the button that lifts one."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils import timezone

from balancer.admin.site import actor_of, page_address, perform
from balancer.admin.times import next_hours, read_moment
from balancer.models import Cluster, Freeze
from balancer.workflow import freezes
from balancer.workflow.errors import Invalid, Refused
from balancer.workflow.permissions import ADMINISTER, may


class FreezePages:
    """Mixed into the admin of clusters."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [
            path("<int:cluster_id>/freeze/", site(self.freeze_view), name="balancer_cluster_freeze"),
            path(
                "<int:cluster_id>/freeze/<int:freeze_id>/lift/",
                site(self.lift_freeze_view),
                name="balancer_cluster_lift_freeze",
            ),
        ]
        return own + super().get_urls()

    def freeze_view(self, request: HttpRequest, cluster_id: int) -> HttpResponse:
        cluster = self.find(request, str(cluster_id))
        if cluster is None:
            return self.answer_missing(request, str(cluster_id))
        if not may(actor=request.user, permission=ADMINISTER):
            messages.error(request, "Only an administrator can declare a freeze.")
            return HttpResponseRedirect(page_address(cluster))
        errors: dict[str, str] = {}
        if request.method == "POST":
            errors = _declare(request, cluster)
            if not errors:
                messages.success(request, "The freeze is declared. What is being applied already goes on.")
                return HttpResponseRedirect(page_address(cluster))
        return self.render(
            request,
            "freeze.html",
            title=f"Freeze {cluster.name}",
            crumbs=[(cluster.name, page_address(cluster)), ("Freeze", "")],
            cluster=cluster,
            errors=errors,
            values=_values(request),
            zone=timezone.get_current_timezone_name(),
            back=page_address(cluster),
        )

    def lift_freeze_view(self, request: HttpRequest, cluster_id: int, freeze_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        cluster = self.find(request, str(cluster_id))
        freeze = Freeze.objects.filter(pk=freeze_id).first()
        if cluster is None or freeze is None:
            return self.answer_missing(request, str(cluster_id))
        return perform(
            request,
            lambda: freezes.lift_freeze(actor=actor_of(request), freeze=freeze),
            done="The freeze is lifted. Changes can be applied again.",
            then=page_address(cluster),
        )


def _declare(request: HttpRequest, cluster: Cluster) -> dict[str, str]:
    """Field -> what is wrong with it; empty where the freeze is declared."""
    starts_at, ends_at = (read_moment(request.POST.get(name, "")) for name in ("starts_at", "ends_at"))
    missing = {
        name: "Give a date and a time."
        for name, value in (("starts_at", starts_at), ("ends_at", ends_at))
        if value is None
    }
    if starts_at is None or ends_at is None:
        return missing
    try:
        freezes.declare_freeze(
            actor=actor_of(request),
            cluster=None if request.POST.get("everywhere") else cluster,
            starts_at=starts_at,
            ends_at=ends_at,
            reason=request.POST.get("reason", ""),
        )
    except Invalid as refusal:
        return refusal.fields
    except Refused as refusal:
        return {"": refusal.message}
    return {}


def _values(request: HttpRequest) -> dict[str, Any]:
    """What was typed, else what a form begins with."""
    start, end = next_hours()
    return {
        "starts_at": request.POST.get("starts_at", start),
        "ends_at": request.POST.get("ends_at", end),
        "reason": request.POST.get("reason", ""),
        "everywhere": request.POST.get("everywhere", ""),
    }
