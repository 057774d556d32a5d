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
from balancer.workflow.queries.evidence import EvidenceView, evidence_about
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
    "EvidenceView",
    "JobView",
    "Move",
    "NodeView",
    "Origin",
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
    "candidate_text",
    "diff_revisions",
    "evidence_about",
    "find_origin",
    "list_services",
    "owners_in",
    "preview_service",
    "service_form",
    "service_names",
    "view_change",
    "view_dashboard",
    "view_deployment",
    "view_node",
    "view_revision",
]
