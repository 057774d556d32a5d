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
from balancer.workflow.queries.deployments import CancelView, DeploymentView, JobView, view_deployment
from balancer.workflow.queries.drafts import (
    Preview,
    ServiceForm,
    candidate_text,
    preview_service,
    service_form,
)
from balancer.workflow.queries.evidence import EvidenceView, evidence_about
from balancer.workflow.queries.guard import RestoredView, list_restored, view_restored
from balancer.workflow.queries.origin import ApprovalDeed, Origin, find_origin, owners_in, service_names
from balancer.workflow.queries.overrides import (
    BackendNow,
    LateReviewRow,
    Operation,
    OverrideView,
    describe_late_reviews,
    diff_override,
    list_late_reviews,
    services_left_empty,
    view_operation,
    view_overrides,
)
from balancer.workflow.queries.rehearsals import RehearsalsView, view_rehearsals
from balancer.workflow.queries.revisions import (
    RevisionDiff,
    RevisionView,
    ServiceDiff,
    diff_revisions,
    view_revision,
)
from balancer.workflow.queries.rollbacks import WayBack, differing_services, judge_way_back, revision_at_once
from balancer.workflow.queries.rulesets import RulesetDiff, TableDiff
from balancer.workflow.queries.windows import coming_windows, stopped_windows, view_freezes

__all__ = [
    "ApprovalDeed",
    "ApprovalsView",
    "BackendNow",
    "CancelView",
    "ChangeActions",
    "ChangeView",
    "Dashboard",
    "DeploymentView",
    "DraftView",
    "EvidenceView",
    "JobView",
    "LateReviewRow",
    "Move",
    "NodeView",
    "Operation",
    "Origin",
    "OverrideView",
    "Preview",
    "RehearsalsView",
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
    "WayBack",
    "actions_for",
    "candidate_text",
    "coming_windows",
    "describe_late_reviews",
    "diff_override",
    "diff_revisions",
    "differing_services",
    "evidence_about",
    "find_origin",
    "judge_way_back",
    "list_late_reviews",
    "list_restored",
    "list_services",
    "owners_in",
    "preview_service",
    "revision_at_once",
    "service_form",
    "service_names",
    "services_left_empty",
    "stopped_windows",
    "view_change",
    "view_dashboard",
    "view_deployment",
    "view_freezes",
    "view_node",
    "view_operation",
    "view_overrides",
    "view_rehearsals",
    "view_restored",
    "view_revision",
]
