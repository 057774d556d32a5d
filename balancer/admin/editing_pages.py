"""Where somebody's edits go: the page on which a change is chosen or opened, and the way out of one."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from unfold.widgets import UnfoldAdminTextInputWidget

from balancer.admin import chips
from balancer.admin.site import actor_of, count_rows, page_address
from balancer.models import Change, Cluster, Draft
from balancer.workflow import editing
from balancer.workflow.changes import editable_changes
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, may

SHOWN = 50
"""Changes that are offered for each cluster; the others are in the list of changes."""


class NewChangeForm(forms.Form):
    title = forms.CharField(
        label="Title",
        max_length=200,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        error_messages={"required": "Give the new change a title, such as what it is for."},
    )


class EditingPages:
    """Mixed into the admin of services, whose edits it is about."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        leave = path(
            "editing/<int:cluster_id>/leave/", site(self.leave_view), name="balancer_service_leave_change"
        )
        return [
            path("editing/", site(self.editing_view), name="balancer_service_editing"),
            leave,
            *super().get_urls(),
        ]

    def editing_view(self, request: HttpRequest) -> HttpResponse:
        if not may(actor=request.user, permission=DRAFT):
            return refuse_drafting(request)
        clusters = list(Cluster.objects.order_by("name"))
        wanted = next((c for c in clusters if str(c.pk) == request.POST.get("cluster")), None)
        form = _new_change(wanted, request.POST) if wanted is not None else None
        if form is not None and form.is_valid():
            opened = _open(request, cluster=wanted, form=form)
            if opened is not None:
                return HttpResponseRedirect(page_address(opened))
        return self.render(
            request,
            "editing.html",
            title="Choose the change to edit in",
            crumbs=[("Where edits go", "")],
            clusters=[_cluster_row(request, c, form if c == wanted else None) for c in clusters],
        )

    def leave_view(self, request: HttpRequest, cluster_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        cluster = Cluster.objects.filter(pk=cluster_id).first()
        if cluster is None or not may(actor=request.user, permission=DRAFT):
            return refuse_drafting(request)
        editing.leave_change(actor=actor_of(request), cluster=cluster)
        messages.success(request, f"Your next edit in {cluster.name} opens a change of its own.")
        return HttpResponseRedirect(_way_back(request))


def refuse_drafting(request: HttpRequest) -> HttpResponse:
    messages.error(request, "Your account may not draft changes. Ask an administrator for the role Editor.")
    return HttpResponseRedirect(reverse("admin:balancer_service_changelist"))


def _open(request: HttpRequest, *, cluster: Cluster, form: NewChangeForm) -> Change | None:
    title = " ".join(form.cleaned_data["title"].split())
    try:
        change = editing.open_change(actor=actor_of(request), cluster=cluster, title=title)
    except Refused as refusal:
        form.add_error("title", refusal.message)
        return None
    messages.success(request, f"Change #{change.pk} is open, and your edits go into it from now on.")
    return change


def _cluster_row(request: HttpRequest, cluster: Cluster, form: NewChangeForm | None) -> dict[str, Any]:
    actor = actor_of(request)
    current = editing.find_current_change(actor=actor, cluster=cluster)
    found = editable_changes(actor=actor, cluster=cluster).select_related("author")
    changes = found.annotate(size=count_rows(Draft, "change"))[:SHOWN]
    return {
        "cluster": cluster,
        "current": current,
        "changes": [(change, chips.change_chip(change.state), change == current) for change in changes],
        "form": form or _new_change(cluster),
    }


def _new_change(cluster: Cluster, data: Any = None) -> NewChangeForm:
    return NewChangeForm(data, auto_id=f"id_{cluster.pk}_%s")


def _way_back(request: HttpRequest) -> str:
    """The page that the person came from; ours only, whatever was sent."""
    wanted = request.POST.get("next", "")
    ours = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if ours else reverse("admin:index")
