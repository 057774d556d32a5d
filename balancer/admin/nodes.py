"""Nodes: what each machine is, what it carries, and whether its kernel agrees."""

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.views import ChangeList

from balancer.admin import chips
from balancer.admin.clearing import node_clients_context
from balancer.admin.drift import DriftPages, drift_of_node
from balancer.admin.health import health_of_node
from balancer.admin.input_pages import services_dropped
from balancer.admin.leaving import NodeLeavingPages, node_leaving
from balancer.admin.machine_forms import MachinePages
from balancer.admin.operating import in_force
from balancer.admin.outdated import outdated_in
from balancer.admin.site import ConsoleAdmin, actor_of, page_address, perform, register, texts_of
from balancer.admin.watch import watch_chips
from balancer.admin.weights import weights_of_node
from balancer.domain.overrides import digest_overrides
from balancer.models import Cluster, Node
from balancer.workflow import clusters, queries
from balancer.workflow.drills import start_drill
from balancer.workflow.effective import overrides_in_force
from balancer.workflow.observations import observation_of
from balancer.workflow.permissions import ADMINISTER, APPLY, DRAFT, may

RECENT_JOBS = 10


class NodeList(ChangeList):
    """A page of nodes, each with what is to be said of its backends."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        watched: dict[int, queries.Watch] = {}
        for cluster in {row.cluster for row in self.result_list}:
            watched |= queries.watch_nodes(cluster=cluster)
        for row in self.result_list:
            row.watched = watched


@register(Node)
class NodeAdmin(DriftPages, MachinePages, NodeLeavingPages, ConsoleAdmin):
    list_display = (
        "show_name",
        "cluster",
        "show_seen",
        "show_carried",
        "show_sync",
        "show_watch",
        "show_drill",
        "show_driver",
    )
    list_filter = ("cluster", "in_sync")
    search_fields = ("name", "description")
    search_help_text = "Name or description"
    ordering = ("name",)
    machine_fields = ("cluster", "name", "description", "driver")
    fixed_fields = ("cluster", "name")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        related = ("cluster__live_revision", "carried_revision")
        found = super().get_queryset(request).select_related(*related)
        return found.defer("observation", "clients", *texts_of(*related))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return NodeList

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        return [
            path("<int:node_id>/drill/", site(self.drill_view), name="balancer_node_drill"),
            *super().get_urls(),
        ]

    def drill_view(self, request: HttpRequest, node_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        node = self.find(request, str(node_id))
        if node is None:
            return self.answer_missing(request, str(node_id))
        return perform(
            request,
            lambda: start_drill(actor=actor_of(request), node=node),
            done="The drill begins in a moment and takes some seconds; what it proved is shown here.",
            then=page_address(node),
        )

    def create_machine(self, **values: Any) -> Node:
        return clusters.create_node(**values)

    def update_machine(self, row: Node, **values: Any) -> Node:
        return clusters.update_node(node=row, **values)

    def show_machine(self, request: HttpRequest, row: Node) -> HttpResponse:
        view = queries.view_node(node=row)
        observed = observation_of(row)
        paths = observed.inputs if observed else ()
        jobs = row.jobs.select_related("revision", "deployment__change").defer(*texts_of("revision"))
        return self.render(
            request,
            "node.html",
            title=row.name,
            crumbs=[(row.name, "")],
            node=row,
            view=view,
            seen=chips.node_chip(row),
            sync=chips.sync_chip(row),
            facts=row.facts,
            observed=observed,
            # A chain of nft may be about both families, and is shown once.
            drops=list({rule.text: rule for path in paths for rule in path.rules if rule.drops}.values()),
            policies=list(dict.fromkeys((path.policy, path.tool) for path in paths if not path.not_read)),
            not_read=list(dict.fromkeys(path.not_read for path in paths if path.not_read)),
            dropped=services_dropped(node=row, observed=observed)
            if may(actor=request.user, permission=DRAFT)
            else [],
            left_out=sum(path.left_out for path in paths),
            jobs=[(job, chips.work_chip(job.state)) for job in jobs.order_by("-queued_at")[:RECENT_JOBS]],
            restored=[restored] if (restored := queries.view_restored(node=row)) else [],
            drill=(drill := queries.view_drill(node=row)),
            drill_chip=chips.drill_chip(drill),
            bad_drills=[drill] if drill.overdue or row.drill_error else [],
            in_drill=queries.is_in_drill(node=row),
            drill_hours=row.cluster.drill_hours,
            may_drill=any(may(actor=request.user, permission=right) for right in (ADMINISTER, APPLY)),
            may_administer=may(actor=request.user, permission=ADMINISTER),
            overrides_words=_describe_overrides(row),
            **outdated_in(row.cluster),
            **drift_of_node(request, row),
            **node_clients_context(row),
            **node_leaving(row),
            **in_force(request, row.cluster),
            **weights_of_node(row),
            **health_of_node(row),
        )

    @display(description="Node", ordering="name")
    def show_name(self, row: Node) -> SafeString:
        return format_html('<a class="lb-plain" href="{}">{}</a>', page_address(row), row.name)

    @display(description="Worker", ordering="last_seen")
    def show_seen(self, row: Node) -> SafeString:
        return chips.node_chip(row)

    @display(description="Carries")
    def show_carried(self, row: Node) -> SafeString:
        return describe_carried(row)

    @display(description="Kernel", ordering="in_sync")
    def show_sync(self, row: Node) -> SafeString:
        return chips.sync_chip(row)

    @display(description="Backends")
    def show_watch(self, row: Any) -> SafeString:
        return watch_chips(row, row.watched)

    @display(description="Rollback", ordering="drilled_at")
    def show_drill(self, row: Node) -> SafeString:
        return chips.drill_chip(queries.view_drill(node=row))

    @display(description="Driver")
    def show_driver(self, row: Node) -> str:
        facts = row.facts
        return f"{facts['driver']} ({facts['flavour']})" if "driver" in facts else row.get_driver_display()


def _describe_overrides(node: Node) -> str:
    if node.carried_overrides == digest_overrides(overrides_in_force(node.cluster)):
        return "The node carries them: its rules differ by them from those of its revision."
    return "They are on their way: the node does not carry all of them yet."


def nodes_of(cluster: Cluster) -> QuerySet[Node]:
    related = ("cluster__live_revision", "carried_revision")
    return cluster.nodes.select_related(*related).defer("observation", "clients", *texts_of(*related))


def nodes_row(
    node: Node, watched: Mapping[int, queries.Watch]
) -> tuple[Node, SafeString, SafeString, SafeString, SafeString]:
    """As console/nodes_table.html wants it."""
    worker, kernel = chips.node_chip(node), chips.sync_chip(node)
    return node, worker, kernel, watch_chips(node, watched), describe_carried(node)


def describe_carried(node: Node) -> SafeString:
    """The revision that the node carries, marked where it should carry another."""
    live = node.cluster.live_revision
    if node.carried_revision is None:
        return format_html('<span class="lb-muted">{}</span>', "Not known")
    link = format_html(
        '<a class="lb-plain" href="{}">Revision {}</a>',
        page_address(node.carried_revision),
        node.carried_revision.number,
    )
    if live is None or node.carried_revision_id == live.pk:
        return link
    return format_html(
        '<span class="lb-chips">{}{}</span>', link, chips.chip(f"should be {live.number}", "warn")
    )
