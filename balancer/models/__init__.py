"""Tables. Only `balancer.workflow` writes them."""

from balancer.models.audit import AuditEvent
from balancer.models.changes import Change, Draft, EditedChange, Review, Vote
from balancer.models.clusters import Cluster, Node
from balancer.models.deployments import Deployment, Evidence, Job
from balancer.models.revisions import Revision
from balancer.models.services import Backend, Service

__all__ = [
    "AuditEvent",
    "Backend",
    "Change",
    "Cluster",
    "Deployment",
    "Draft",
    "EditedChange",
    "Evidence",
    "Job",
    "Node",
    "Review",
    "Revision",
    "Service",
    "Vote",
]
