"""Several services at once: chosen in the list, edited on a page that shows first what would differ."""

from collections.abc import Iterable
from copy import copy
from typing import Any

from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import URLPattern, path

from balancer.admin.bulk_form import BulkForm
from balancer.admin.editing_pages import refuse_drafting
from balancer.admin.plans import describe_plan, token_of
from balancer.admin.service_pages import interfaces_of
from balancer.admin.site import actor_of, list_address, page_address, read_key
from balancer.models import Cluster, Service
from balancer.workflow import bulk, editing
from balancer.workflow.bulk import Planned, Proposed
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, may

MAX_SERVICES = 1000
"""That are edited together."""


class BulkPages:
    """Mixed into the admin of services."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.bulk_view)
        return [path("several/", view, name="balancer_service_bulk"), *super().get_urls()]

    def bulk_view(self, request: HttpRequest) -> HttpResponse:
        if not may(actor=request.user, permission=DRAFT):
            return refuse_drafting(request)
        form = BulkForm(request.POST if request.method == "POST" else None)
        if request.method == "POST":
            cluster, names = _cluster_named(request.POST.get("cluster", "")), form.names_chosen
            problem = _too_many(len(names))
        else:
            cluster, names, problem = self._chosen(request)
        if problem or cluster is None or not names:
            messages.error(request, problem or "Choose at least one service, then edit the chosen ones.")
            return HttpResponseRedirect(_list_with(request.GET.get("filter", "")))
        form.initial["names"] = " ".join(names)
        return self._edit_several(request, cluster=cluster, names=names, form=form)

    def _edit_several(
        self, request: HttpRequest, *, cluster: Cluster, names: tuple[str, ...], form: BulkForm
    ) -> HttpResponse:
        plan, refusal = None, ""
        if request.method == "POST" and form.is_valid():
            edit = {"actor": actor_of(request), "cluster": cluster, "names": names, **form.to_edit()}
            try:
                plan = bulk.plan_edit(**edit)
                if form.show_problems(plan.problems):
                    plan, refusal = None, "Put right what is marked above."
                elif is_to_be_saved(request, plan):
                    return answer_saved(request, bulk.edit_services(**edit))
            except Refused as error:
                refusal = error.message
        return self.render(
            request,
            "bulk.html",
            title=f"Edit {len(names)} service{'' if len(names) == 1 else 's'}",
            crumbs=[("Edit several", "")],
            form=form,
            cluster=cluster,
            names=names,
            refusal=refusal,
            plan=describe_plan(plan) if plan else None,
            seen_other=plan is not None and _was_saving(request),
            change=editing.find_current_change(actor=actor_of(request), cluster=cluster),
            interfaces=interfaces_of(cluster),
        )

    def _chosen(self, request: HttpRequest) -> tuple[Cluster | None, tuple[str, ...], str]:
        """The services that the list was asked for: a cluster, their names, and what is wrong with that."""
        if "filter" in request.GET:
            found = self._shown_by(request, request.GET["filter"])
        else:
            keys = (read_key(key) for key in request.GET.getlist("id"))
            found = Service.objects.filter(pk__in=[key for key in keys if key is not None])
        rows = list(found.order_by("name").values_list("cluster", "name")[: MAX_SERVICES + 1])
        clusters = {cluster for cluster, _ in rows}
        problem = _too_many(len(rows)) or _too_far_apart(clusters)
        names = tuple(dict.fromkeys(name for _, name in rows))
        return Cluster.objects.filter(pk__in=clusters).first(), names, problem

    def _shown_by(self, request: HttpRequest, query: str) -> Any:
        """What the list of services shows for this query, on all its pages."""
        listing = copy(request)
        listing.GET = QueryDict(query.removeprefix("?"))
        try:
            shown = self.get_changelist_instance(listing).queryset
        except IncorrectLookupParameters:
            return Service.objects.none()
        return Service.objects.filter(pk__in=shown.order_by().values("pk"))


def is_to_be_saved(request: HttpRequest, plan: Planned) -> bool:
    """Whether Save was pressed under a preview of exactly this."""
    return _was_saving(request) and plan.possible and request.POST.get("previewed") == token_of(plan)


def answer_saved(request: HttpRequest, saved: Proposed) -> HttpResponse:
    """To the change. Refused("conflict") where something moved between the preview and the save."""
    if not saved.saved or saved.change is None:
        raise Refused("conflict", "Something moved meanwhile. Look at the preview again.")
    count = len(saved.names)
    messages.success(
        request,
        f"{count} service{'' if count == 1 else 's'} saved as drafts in change #{saved.change.pk}. Nothing is"
        " live yet: submit the change when it is complete.",
    )
    return HttpResponseRedirect(page_address(saved.change))


def _was_saving(request: HttpRequest) -> bool:
    return request.POST.get("do") == "save"


def _cluster_named(key: str) -> Cluster | None:
    return Cluster.objects.filter(pk=read_key(key)).first()


def _too_many(count: int) -> str:
    if count <= MAX_SERVICES:
        return ""
    return f"At most {MAX_SERVICES:,} services can be edited together. Filter the list further."


def _too_far_apart(clusters: Iterable[int]) -> str:
    names = sorted(Cluster.objects.filter(pk__in=clusters).values_list("name", flat=True))
    if len(names) < 2:
        return ""
    return f"These services belong to the clusters {', '.join(names)}. Choose those of one cluster at a time."


def _list_with(query: str) -> str:
    """The list of services as it was."""
    query = QueryDict(query.removeprefix("?")).urlencode()
    return f"{list_address(Service)}?{query}" if query else list_address(Service)
