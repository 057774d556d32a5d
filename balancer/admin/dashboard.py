"""The first page: what is live, what waits, what happened."""

from typing import Any

from django.http import HttpRequest

from balancer.admin import chips
from balancer.admin.drift import drift_of_cluster
from balancer.admin.history import describe_events
from balancer.admin.inbox import trays_of
from balancer.admin.nodes import nodes_of, nodes_row
from balancer.admin.site import actor_of, texts_of
from balancer.admin.watch import watch_of_cluster
from balancer.models import AuditEvent, Cluster, Deployment
from balancer.workflow import queries
from balancer.workflow.late_reviews import why_not_sign

RECENT_DEPLOYMENTS = 6
RECENT_EVENTS = 10
CLUSTERS = 20


def add_dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's DASHBOARD_CALLBACK: everything that the index page shows on top of the site's own context."""
    return {
        **context,
        "title": "Dashboard",
        "crumbs": [("Dashboard", "")],
        "clusters": _clusters(request) if request.user.has_perm("balancer.view_cluster") else [],
        "trays": [
            (tray.title, [(change, chips.change_chip(change.state)) for change in tray.changes])
            for tray in trays_of(request.user)
        ],
        "late_reviews": _late_reviews(request) if request.user.has_perm("balancer.view_latereview") else [],
        "deployments": _deployments() if request.user.has_perm("balancer.view_deployment") else [],
        "events": _events() if request.user.has_perm("balancer.view_auditevent") else (),
    }


def _late_reviews(request: HttpRequest) -> list[tuple[Any, bool]]:
    """What still waits for a signature, on everybody's dashboard; with whether this person can sign it."""
    person = actor_of(request)
    rows = queries.list_late_reviews()
    return [(row, why_not_sign(person=person, review=row.review) is None) for row in rows]


def _clusters(request: HttpRequest) -> list[dict[str, Any]]:
    found = Cluster.objects.select_related("live_revision").defer(*texts_of("live_revision"))
    return [_show_cluster(request, cluster) for cluster in found.order_by("name")[:CLUSTERS]]


def _show_cluster(request: HttpRequest, cluster: Cluster) -> dict[str, Any]:
    view = queries.view_dashboard(cluster=cluster)
    watch = watch_of_cluster(cluster)
    return {
        "view": view,
        "nodes": [nodes_row(node, watch["watched"]) for node in nodes_of(cluster)],
        "freezes": queries.view_freezes(cluster=cluster),
        "windows": queries.coming_windows(cluster=cluster),
        "stopped": queries.stopped_windows(cluster=cluster),
        "restored": queries.list_restored(cluster=cluster),
        **drift_of_cluster(request, cluster),
        **watch,
        "bad_drills": queries.list_bad_drills(cluster=cluster),
    }


def _deployments() -> list[tuple[Deployment, Any]]:
    found = Deployment.objects.select_related("revision", "change", "cluster", "requested_by")
    found = found.defer(*texts_of("revision")).order_by("-pk")
    return [(deployment, chips.work_chip(deployment.state)) for deployment in found[:RECENT_DEPLOYMENTS]]


def _events() -> tuple[Any, ...]:
    return describe_events(AuditEvent.objects.order_by("-pk")[:RECENT_EVENTS])
