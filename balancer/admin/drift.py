"""Drift on the pages of nodes, clusters and services, and the button of operators that has it put right."""

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path

from balancer.admin.site import actor_of, page_address, perform, read_key
from balancer.models import Cluster, Node
from balancer.workflow import queries
from balancer.workflow.drift import put_ours_back
from balancer.workflow.permissions import OPERATE, may

ORDER_CHECK = "forward-behind-others"
"""A finding about the machine that says what the drift of order says, with a button."""


class DriftPages:
    """Mixed into the admin of nodes."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.put_back_view)
        return [path("<int:node_id>/put-back/", view, name="balancer_node_put_back"), *super().get_urls()]

    def put_back_view(self, request: HttpRequest, node_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        node = self.find(request, str(node_id))
        if node is None:
            return self.answer_missing(request, str(node_id))
        event_id = read_key(request.POST.get("event"))
        return perform(
            request,
            lambda: put_ours_back(actor=actor_of(request), node=node, event_id=event_id),
            done=f"{node.name} puts it right as soon as it is free; what it did is shown here.",
            then=page_address(node),
        )


def drift_of_node(request: HttpRequest, node: Node) -> dict[str, Any]:
    """What console/drift.html wants, with the findings about the machine that say something else."""
    drift = queries.view_drift(node=node)
    known = {ORDER_CHECK} if any(view.is_order for view in drift) else set()
    return {
        "drift": drift,
        "drift_history": queries.drift_history(node=node),
        "checks": [check for check in node.facts.get("checks", ()) if check.get("id") not in known],
        "may_mend": may(actor=request.user, permission=OPERATE),
    }


def drift_of_cluster(request: HttpRequest, cluster: Cluster) -> dict[str, Any]:
    """What console/drift_notes.html wants."""
    return {
        "drift": queries.list_drift(cluster=cluster),
        "may_mend": may(actor=request.user, permission=OPERATE),
    }
