"""Tables. Only `balancer.workflow` writes them."""

from balancer.models.audit import AuditEvent
from balancer.models.balancing import NodeBalance, WeightMove
from balancer.models.changes import Change, Draft, EditedChange, Review, Vote
from balancer.models.clearings import Clearing
from balancer.models.clusters import Cluster, Node
from balancer.models.counters import CounterSample, CounterSlice, CounterState, CounterTotal
from balancer.models.deployments import Deployment, Evidence, Job
from balancer.models.drift import DriftEvent
from balancer.models.emergencies import Emergency
from balancer.models.health import BackendHealth, HealthEvent, NodeHealth
from balancer.models.overrides import LateReview, Override
from balancer.models.rehearsals import Rehearsal
from balancer.models.revisions import Revision
from balancer.models.services import Backend, Service
from balancer.models.windows import Freeze, Window

__all__ = [
    "AuditEvent",
    "Backend",
    "BackendHealth",
    "Change",
    "Clearing",
    "Cluster",
    "CounterSample",
    "CounterSlice",
    "CounterState",
    "CounterTotal",
    "Deployment",
    "Draft",
    "DriftEvent",
    "EditedChange",
    "Emergency",
    "Evidence",
    "Freeze",
    "HealthEvent",
    "Job",
    "LateReview",
    "Node",
    "NodeBalance",
    "NodeHealth",
    "Override",
    "Rehearsal",
    "Review",
    "Revision",
    "Service",
    "Vote",
    "WeightMove",
    "Window",
]
