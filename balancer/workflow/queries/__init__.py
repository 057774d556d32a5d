"""What the console and the API show, as plain values. Nothing here writes."""

from balancer.workflow.queries.changes import (
    ApprovalsView,
    ChangeActions,
    ChangeView,
    DraftView,
    Move,
    ShareRow,
    VoteView,
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
from balancer.workflow.queries.rulesets import RulesetDiff, TableDiff

__all__ = [
    "ApprovalsView",
    "ChangeActions",
    "ChangeView",
    "Dashboard",
    "DeploymentView",
    "DraftView",
    "JobView",
    "Move",
    "NodeView",
    "Preview",
    "RevisionDiff",
    "RevisionView",
    "RulesetDiff",
    "ServiceDiff",
    "ServiceForm",
    "ServiceRow",
    "ShareRow",
    "TableDiff",
    "VoteView",
    "actions_for",
    "diff_revisions",
    "list_services",
    "preview_service",
    "service_form",
    "view_change",
    "view_dashboard",
    "view_deployment",
    "view_node",
    "view_revision",
]
