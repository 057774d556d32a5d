"""What the console and the API show, as plain values. Nothing here writes."""

from balancer.workflow.queries.changes import (
    ChangeActions,
    ChangeView,
    DraftView,
    ShareRow,
    actions_for,
    view_change,
)
from balancer.workflow.queries.cluster import (
    Dashboard,
    NodeView,
    ServiceRow,
    list_services,
    view_dashboard,
    view_node,
)
from balancer.workflow.queries.deployments import DeploymentView, JobView, view_deployment
from balancer.workflow.queries.drafts import Preview, ServiceForm, preview_service, service_form
from balancer.workflow.queries.revisions import (
    RevisionDiff,
    RevisionView,
    ServiceDiff,
    diff_revisions,
    view_revision,
)
from balancer.workflow.queries.stakes import Stake, advice_for, stakes_of

__all__ = [
    "ChangeActions",
    "ChangeView",
    "Dashboard",
    "DeploymentView",
    "DraftView",
    "JobView",
    "NodeView",
    "Preview",
    "RevisionDiff",
    "RevisionView",
    "ServiceDiff",
    "ServiceForm",
    "ServiceRow",
    "ShareRow",
    "Stake",
    "actions_for",
    "advice_for",
    "diff_revisions",
    "list_services",
    "preview_service",
    "service_form",
    "stakes_of",
    "view_change",
    "view_dashboard",
    "view_deployment",
    "view_node",
    "view_revision",
]
