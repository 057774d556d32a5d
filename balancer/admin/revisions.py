"""Revisions: what was live and when, the difference between any two, and the way back."""

from typing import Any

from django.contrib import messages
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from balancer.admin import chips
from balancer.admin.evidence import evidence_rows
from balancer.admin.field_words import describe_fields
from balancer.admin.history import events_about
from balancer.admin.operating import in_force
from balancer.admin.outdated import outdated_in
from balancer.admin.site import ConsoleAdmin, actor_of, page_address, perform, register, show_moment
from balancer.domain.lifecycle import DeploymentState
from balancer.models import Deployment, Revision
from balancer.workflow import queries, rollback
from balancer.workflow.permissions import ROLL_BACK, may

CHOICES = 200
"""Revisions that can be chosen for a comparison; older ones by their address."""


@register(Revision)
class RevisionAdmin(ConsoleAdmin):
    list_display = ("show_number", "show_change", "show_author", "show_time", "show_digest")
    list_filter = ("cluster",)
    search_fields = ("=number", "author_name", "change__title", "digest")
    search_help_text = "Number, author or change"
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Revision]:
        found = super().get_queryset(request).select_related("cluster", "change")
        # The list shows neither text, and they are long.
        return found.defer("document", "rulesets").annotate(went_back=_went_back())

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [
            path("<int:revision_id>/origin/", site(self.origin_view), name="balancer_revision_origin"),
            path("compare/", site(self.compare_view), name="balancer_revision_compare"),
            path(
                "<int:revision_id>/roll-back/", site(self.roll_back_view), name="balancer_revision_roll_back"
            ),
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        revision = self.find(request, object_id)
        if revision is None:
            return self.answer_missing(request, object_id)
        view = queries.view_revision(revision=revision)
        return self.render(
            request,
            "revision.html",
            title=f"Revision {revision.number}",
            crumbs=[(f"Revision {revision.number}", "")],
            revision=revision,
            view=view,
            live=chips.live_chip() if view.live else "",
            rulesets=queries.owners_in(revision),
            deployments=[(deployment, chips.work_chip(deployment.state)) for deployment in view.deployments],
            others=_comparable(revision),
            may_roll_back=may(actor=request.user, permission=ROLL_BACK),
            way=queries.judge_way_back(revision=revision),
            differing=() if view.live else queries.differing_services(revision=revision),
            overrides_words="They are in no revision: the nodes' rules differ by them from what is below.",
            **(in_force(request, revision.cluster) | outdated_in(revision.cluster) if view.live else {}),
            evidence=evidence_rows(request, revision),
        )

    def compare_view(self, request: HttpRequest) -> HttpResponse:
        """`?from=PK&to=PK`; both can be chosen on the page."""
        before = self._chosen(request, "from")
        after = self._chosen(request, "to")
        if before is None or after is None:
            return self.answer_missing(request, request.GET.get("from") or request.GET.get("to") or "?")
        diff = queries.diff_revisions(before=before, after=after)
        return self.render(
            request,
            "revision_compare.html",
            title=f"Revision {before.number} to revision {after.number}",
            crumbs=[(f"{before.number} → {after.number}", "")],
            diff=diff,
            services=[
                (service, chips.draft_chip(service.action), describe_fields(service.fields))
                for service in diff.services
            ],
            others=_comparable(before, itself=True),
            may_roll_back=may(actor=request.user, permission=ROLL_BACK),
            before_is_live=before.cluster.live_revision_id == before.pk,
        )

    def origin_view(self, request: HttpRequest, revision_id: int) -> HttpResponse:
        """Who let this through? `?service=NAME` asks for one service of the revision."""
        revision = self.find(request, str(revision_id))
        if revision is None:
            return self.answer_missing(request, str(revision_id))
        service = request.GET.get("service", "")
        if service and service not in queries.service_names(revision=revision):
            messages.error(request, f"Revision {revision.number} has no service of that name.")
            return HttpResponseRedirect(page_address(revision))
        origin = queries.find_origin(revision=revision, service=service)
        return self.render(
            request,
            "origin.html",
            title=f"Who let {service or f'revision {revision.number}'} through?",
            crumbs=[(f"Revision {revision.number}", page_address(revision)), ("Origin", "")],
            origin=origin,
            events=events_about(change=origin.change) if origin.change else (),
        )

    def roll_back_view(self, request: HttpRequest, revision_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        revision = self.find(request, str(revision_id))
        if revision is None:
            return self.answer_missing(request, str(revision_id))
        some = request.POST.getlist("service") if "some" in request.POST else None
        what = f"revision {revision.number}" if some is None else f"{', '.join(some)} as in {revision.number}"
        return perform(
            request,
            lambda: rollback.roll_back_to(actor=actor_of(request), revision=revision, services=some),
            done=f"A change that brings back {what} was prepared. Submit it for review.",
            then=page_address,
            back=page_address(revision),
        )

    def _chosen(self, request: HttpRequest, name: str) -> Revision | None:
        wanted = request.GET.get(name, "")
        return self.find(request, wanted) if wanted.isascii() and wanted.isdigit() else None

    @display(description="Revision", ordering="number")
    def show_number(self, row: Revision) -> SafeString:
        live = chips.live_chip() if row.cluster.live_revision_id == row.pk else ""
        if not live and getattr(row, "went_back", False):
            live = chips.work_chip(DeploymentState.ROLLED_BACK)
        return format_html(
            '<span class="lb-chips"><a class="lb-plain" href="{}">{} {}</a>{}</span>',
            page_address(row),
            row.cluster.name,
            row.number,
            live,
        )

    @display(description="Change", ordering="change")
    def show_change(self, row: Revision) -> SafeString | str:
        if row.change is None:
            return "Start of the cluster"
        return format_html('<a class="lb-plain" href="{}">{}</a>', page_address(row.change), row.change)

    @display(description="Author", ordering="author_name")
    def show_author(self, row: Revision) -> str:
        return row.author_name

    @display(description="Made", ordering="created_at")
    def show_time(self, row: Revision) -> SafeString:
        return show_moment(row.created_at)

    @display(description="Digest")
    def show_digest(self, row: Revision) -> SafeString:
        return format_html('<span class="lb-mono" title="{}">{}</span>', row.digest, row.digest[:12])


def _went_back() -> Exists:
    """Whether a node went back by itself when the revision was applied; history itself is append-only."""
    tried = Deployment.objects.filter(revision=OuterRef("pk"), state=DeploymentState.ROLLED_BACK)
    return Exists(tried)


def _comparable(revision: Revision, *, itself: bool = False) -> list[Revision]:
    found = Revision.objects.filter(cluster=revision.cluster).defer("document", "rulesets")
    return list((found if itself else found.exclude(pk=revision.pk)).order_by("-number")[:CHOICES])
