"""Clusters: which nodes carry the same configuration, and what an approval needs there."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from balancer.admin.drift import drift_of_cluster
from balancer.admin.freezes import FreezePages
from balancer.admin.machine_forms import MachinePages
from balancer.admin.nodes import nodes_of, nodes_row
from balancer.admin.operation import OperationPages
from balancer.admin.outdated import outdated_in
from balancer.admin.policies import PolicyPages, alone_in
from balancer.admin.site import ConsoleAdmin, actor_of, count_rows, page_address, register, texts_of
from balancer.admin.watch import watch_of_cluster
from balancer.admin.way_back import WayBackPages
from balancer.domain.operation import describe_operation
from balancer.domain.policy import describe_policy
from balancer.models import Cluster, Node, Service
from balancer.workflow import clusters, queries
from balancer.workflow.permissions import ADMINISTER, may


@register(Cluster)
class ClusterAdmin(WayBackPages, FreezePages, PolicyPages, OperationPages, MachinePages, ConsoleAdmin):
    list_display = ("show_name", "description", "show_nodes", "show_services", "show_live", "show_policy")
    search_fields = ("name", "description")
    search_help_text = "Name or description"
    ordering = ("name",)
    machine_fields = ("name", "description")
    fixed_fields = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Cluster]:
        found = super().get_queryset(request).select_related("live_revision")
        # Two joins at once would multiply nodes by services before counting them.
        counts = {"node_count": count_rows(Node, "cluster"), "service_count": count_rows(Service, "cluster")}
        return found.defer(*texts_of("live_revision")).annotate(**counts)

    def create_machine(self, **values: Any) -> Cluster:
        return clusters.create_cluster(**values)

    def update_machine(self, row: Cluster, **values: Any) -> Cluster:
        return clusters.update_cluster(cluster=row, **values)

    def show_machine(self, request: HttpRequest, row: Cluster) -> HttpResponse:
        watch = watch_of_cluster(row)
        return self.render(
            request,
            "cluster.html",
            title=row.name,
            crumbs=[(row.name, "")],
            cluster=row,
            nodes=[nodes_row(node, watch["watched"]) for node in nodes_of(row)],
            services=row.services.count(),
            policy=describe_policy(row.policy),
            alone=alone_in(row),
            freezes=queries.view_freezes(cluster=row),
            windows=queries.coming_windows(cluster=row),
            stopped=queries.stopped_windows(cluster=row),
            operation=describe_operation(row.operation),
            back_to=queries.revision_at_once(cluster=row, user=actor_of(request)),
            may_administer=may(actor=request.user, permission=ADMINISTER),
            **drift_of_cluster(request, row),
            **watch,
            **outdated_in(row),
        )

    @display(description="Cluster", ordering="name")
    def show_name(self, row: Cluster) -> SafeString:
        return format_html('<a class="lb-plain" href="{}">{}</a>', page_address(row), row.name)

    @display(description="Nodes")
    def show_nodes(self, row: Any) -> int:
        return row.node_count

    @display(description="Services")
    def show_services(self, row: Any) -> int:
        return row.service_count

    @display(description="Live")
    def show_live(self, row: Cluster) -> SafeString | str:
        if row.live_revision is None:
            return "Nothing yet"
        return format_html(
            '<a class="lb-plain" href="{}">Revision {}</a>',
            page_address(row.live_revision),
            row.live_revision.number,
        )
