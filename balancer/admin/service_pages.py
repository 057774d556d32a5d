"""The pages of one service: its form, its preview, its deletion; for those who may not edit, its content.

Every save is a draft in a change. Nothing here touches what is live.
"""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from balancer.admin.editing_pages import refuse_drafting
from balancer.admin.health_words import describe_health
from balancer.admin.operating import operation_context
from balancer.admin.overtaken import describe_overtaken
from balancer.admin.service_form import ServiceEditor
from balancer.admin.service_preview import own_rules, preview_service
from balancer.admin.site import actor_of, page_address, perform, read_key
from balancer.domain.problem import Severity
from balancer.models import Change, Cluster, Draft, Service
from balancer.workflow import drafts, editing, queries
from balancer.workflow.documents import Data
from balancer.workflow.errors import Refused
from balancer.workflow.overtaken import Overtaken
from balancer.workflow.permissions import DRAFT, may


class ServicePages:
    """Mixed into the admin of services."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(actor=request.user, permission=DRAFT)

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [
            path("preview/<int:cluster_id>/", site(preview_service), name="balancer_service_preview"),
            path("draft/<int:draft_id>/", site(self.draft_view), name="balancer_service_draft"),
        ]
        return own + super().get_urls()

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            return refuse_drafting(request)
        original = self.find(request, request.GET["clone"]) if request.GET.get("clone") else None
        if original is not None:
            return self._edit(request, cluster=original.cluster, name=None, original=original)
        clusters = list(Cluster.objects.order_by("name"))
        wanted = request.GET.get("cluster", "")
        cluster = next((c for c in clusters if str(c.pk) == wanted), clusters[0] if clusters else None)
        if cluster is None:
            messages.error(request, "There is no cluster yet; an administrator has to add one first.")
            return HttpResponseRedirect(reverse("admin:balancer_cluster_changelist"))
        change = _change_named(request, cluster)
        return self._edit(request, cluster=cluster, name=None, clusters=clusters, change=change)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.find(request, object_id)
        if row is None:
            return self.answer_missing(request, object_id)
        if not may(actor=request.user, permission=DRAFT):
            return self._show(request, row)
        return self._edit(request, cluster=row.cluster, name=row.name, row=row)

    def draft_view(self, request: HttpRequest, draft_id: int) -> HttpResponse:
        """The form of a service as a change proposes it; the only way to one that is not live yet."""
        draft = Draft.objects.select_related("change__cluster").filter(pk=draft_id).first()
        if draft is None or not self.has_view_permission(request):
            return self.answer_missing(request, str(draft_id))
        change = draft.change
        if not queries.actions_for(change=change, user=request.user).edit:
            messages.info(request, "This change cannot be edited now, or not by you.")
            return HttpResponseRedirect(page_address(change))
        return self._edit(request, cluster=change.cluster, name=draft.service_name, change=change)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        row = self.find(request, object_id)
        if row is None:
            return self.answer_missing(request, object_id)
        if not may(actor=request.user, permission=DRAFT):
            return refuse_drafting(request)
        if request.method == "POST":
            return perform(
                request,
                lambda: drafts.delete_service(actor=actor_of(request), cluster=row.cluster, name=row.name),
                done=f"That {row.name} goes is now proposed. It stays live until the change is applied.",
                then=lambda saved: page_address(saved.change),
                back=page_address(row),
            )
        change = editing.find_current_change(actor=actor_of(request), cluster=row.cluster)
        return self.render(
            request,
            "service_delete.html",
            title=f"Delete {row.name}?",
            crumbs=[(row.name, page_address(row)), ("Delete", "")],
            row=row,
            change=change,
        )

    def _edit(
        self,
        request: HttpRequest,
        *,
        cluster: Cluster,
        name: str | None,
        row: Service | None = None,
        change: Change | None = None,
        clusters: list[Cluster] | None = None,
        original: Service | None = None,
    ) -> HttpResponse:
        """The form: of the service `name`, or of a new one, filled in from `original` where that is given."""
        change = change or editing.find_current_change(actor=actor_of(request), cluster=cluster)
        shown = queries.service_form(cluster=cluster, name=name, change=change) if name else None
        if name and shown is None and request.method != "POST":  # what was typed is not thrown away
            messages.info(request, f"{name} is to be deleted. Take that out of the change to edit it again.")
            return HttpResponseRedirect(page_address(change) if change else reverse("admin:index"))
        editor = ServiceEditor(
            data=request.POST if request.method == "POST" else None,
            initial=shown.data | {"seen": shown.data} if shown else _copy_of(original, change=change),
        )
        overtaken = None
        if request.method == "POST" and editor.is_well_formed():
            try:
                saved = _save(request, editor, cluster=cluster, name=name, change=change)
            except Overtaken as refusal:
                editor, overtaken, saved = _merged_editor(refusal), describe_overtaken(refusal), None
                name = name if refusal.now is not None else None
            if saved is not None:
                return saved
        return self._show_form(
            request,
            name=name,
            cluster=cluster,
            row=row or Service.objects.filter(cluster=cluster, name=name or "").first(),
            editor=editor,
            clusters=clusters or [],
            change=change,
            draft=shown.draft if shown else None,
            overtaken=overtaken,
            original=original,
        )

    def _show_form(
        self, request: HttpRequest, *, name: str | None, cluster: Cluster, row: Service | None, **context: Any
    ) -> HttpResponse:
        return self.render(
            request,
            "service_form.html",
            title=f"Edit {name}" if name else "New service",
            crumbs=[(name or "New service", "")],
            original_name=name or "",
            cluster=cluster,
            row=row,
            interfaces=interfaces_of(cluster),
            origin=_origin_address(row),
            **context,
            **operation_context(request, row),
        )

    def _show(self, request: HttpRequest, row: Service) -> HttpResponse:
        form = queries.service_form(cluster=row.cluster, name=row.name)
        preview = queries.preview_service(cluster=row.cluster, data=form.data) if form else None
        return self.render(
            request,
            "service_detail.html",
            title=row.name,
            crumbs=[(row.name, "")],
            row=row,
            rules=own_rules(preview) if preview else "",
            health=describe_health(row.health),
            origin=_origin_address(row),
            **operation_context(request, row),
        )


def _save(
    request: HttpRequest, editor: ServiceEditor, *, cluster: Cluster, name: str | None, change: Change | None
) -> HttpResponse | None:
    """The way to the change where the draft was saved; None where the form has to be shown again.

    Raises Overtaken.
    """
    if name is not None and editor.seen is None:
        editor.problems.append("The form does not say what it was filled in from. Reload the page.")
        return None
    try:
        saved = drafts.save_draft(
            actor=actor_of(request),
            cluster=cluster,
            data=editor.to_data(),
            change=change,
            original_name=name,
            seen=editor.seen,
        )
    except Overtaken:
        raise
    except Refused as refusal:
        editor.problems.append(refusal.message)
        return None
    if not saved.saved:
        editor.show_problems(problem for problem in saved.problems if problem.severity is Severity.ERROR)
        return None
    for problem in saved.problems:
        messages.warning(request, editor.describe(problem))
    if saved.draft is None:
        messages.info(request, "That is what is live already, so there is nothing to propose.")
    else:
        messages.success(
            request,
            f"Saved as a draft in change #{saved.change.pk}. Nothing is live yet: submit the change when"
            " it is complete.",
        )
    return HttpResponseRedirect(page_address(saved.change))


def _merged_editor(refusal: Overtaken) -> ServiceEditor:
    """The form with both edits in it; saving it once more overwrites nothing that was not shown."""
    assert refusal.merge.data is not None
    return ServiceEditor(initial=refusal.merge.data | {"seen": refusal.now})


def _copy_of(original: Service | None, *, change: Change | None) -> Data | None:
    """The service as its own form would show it, under a name that is free."""
    if original is None:
        return None
    shown = queries.service_form(cluster=original.cluster, name=original.name, change=change)
    shown = shown or queries.service_form(cluster=original.cluster, name=original.name)
    if shown is None:
        return None
    return shown.data | {
        "name": drafts.free_name(shown.data["name"], cluster=original.cluster, change=change)
    }


def _change_named(request: HttpRequest, cluster: Cluster) -> Change | None:
    """The change of the address, where this person can edit in it."""
    found = Change.objects.filter(pk=read_key(request.GET.get("change")), cluster=cluster).first()
    return found if found and queries.actions_for(change=found, user=request.user).edit else None


def _origin_address(row: Service | None) -> str:
    """Where it says who let the service through as it is live; empty for one that is not live."""
    if row is None or row.cluster.live_revision_id is None:
        return ""
    address = reverse("admin:balancer_revision_origin", args=[row.cluster.live_revision_id])
    return f"{address}?{urlencode({'service': row.name})}"


def interfaces_of(cluster: Cluster) -> list[str]:
    facts = cluster.nodes.values_list("facts", flat=True)
    seen = {interface["name"] for node in facts for interface in node.get("interfaces", ())}
    return sorted(seen - {"lo"})
