"""The sidebar: what there is for this person, and how many changes wait for them."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy

from balancer.admin.inbox import count_waiting
from balancer.workflow.late_reviews import open_late_reviews

_GROUPS: tuple[tuple[str, tuple[tuple[str, str, str, str], ...]], ...] = (
    (
        "Load balancing",
        (
            ("Services", "lan", "balancer_service", "balancer.view_service"),
            ("Changes", "rule", "balancer_change", "balancer.view_change"),
            ("Revisions", "history", "balancer_revision", "balancer.view_revision"),
            ("Overrides", "build", "balancer_override", "balancer.view_override"),
        ),
    ),
    (
        "Machines",
        (
            ("Clusters", "hub", "balancer_cluster", "balancer.view_cluster"),
            ("Nodes", "dns", "balancer_node", "balancer.view_node"),
        ),
    ),
    (
        "Oversight",
        (
            ("Late reviews", "draw", "balancer_latereview", "balancer.view_latereview"),
            ("Audit", "fact_check", "balancer_auditevent", "balancer.view_auditevent"),
            ("Users", "person", "auth_user", "auth.view_user"),
            ("Roles", "group", "auth_group", "auth.view_group"),
        ),
    ),
)


def build(request: HttpRequest) -> list[dict[str, Any]]:
    """As Unfold's SIDEBAR["navigation"] wants it; entries that the person may not see are left out."""
    dashboard = {"title": "Dashboard", "icon": "space_dashboard", "link": reverse_lazy("admin:index")}
    groups: list[dict[str, Any]] = [{"items": [dashboard]}]
    for title, entries in _GROUPS:
        items = [
            {"title": name, "icon": icon, "link": reverse_lazy(f"admin:{model}_changelist")}
            for name, icon, model, permission in entries
            if request.user.has_perm(permission)
        ]
        groups.append({"title": title, "items": items})
    _add_badge(groups, title="Changes", waiting=count_waiting(request.user))
    _add_badge(groups, title="Late reviews", waiting=open_late_reviews().count())
    return groups


def _add_badge(groups: list[dict[str, Any]], *, title: str, waiting: int) -> None:
    for group in groups:
        for item in group["items"]:
            if waiting and item["title"] == title:
                item |= {"badge": str(waiting), "badge_variant": "primary"}
