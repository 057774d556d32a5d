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
from balancer.workflow.queries.drafts import (
    Preview,
    ServiceForm,
    candidate_text,
    preview_service,
    service_form,
)
from balancer.workflow.queries.guard import RestoredView, list_restored, view_restored
from balancer.workflow.queries.origin import ApprovalDeed, Origin, find_origin, owners_in, service_names
from balancer.workflow.queries.revisions import (
    RevisionDiff,
    RevisionView,
    ServiceDiff,
    diff_revisions,
    view_revision,
)
from balancer.workflow.queries.rulesets import RulesetDiff, TableDiff

__all__ = [
    "ApprovalDeed",
    "ApprovalsView",
    "ChangeActions",
    "ChangeView",
    "Dashboard",
    "DeploymentView",
    "DraftView",
    "JobView",
    "Move",
    "NodeView",
    "Origin",
    "Preview",
    "RestoredView",
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
    "candidate_text",
    "diff_revisions",
    "find_origin",
    "list_restored",
    "list_services",
    "owners_in",
    "preview_service",
    "service_form",
    "service_names",
    "view_change",
    "view_dashboard",
    "view_deployment",
    "view_node",
    "view_restored",
    "view_revision",
]
