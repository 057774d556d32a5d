"""The console: it translates between pages and `balancer.workflow`, and writes no model itself."""

from balancer.admin import (
    accounts,
    audit,
    changes,
    clusters,
    late_reviews,
    nodes,
    reviews,
    revisions,
    services,
)

__all__ = [
    "accounts",
    "audit",
    "changes",
    "clusters",
    "late_reviews",
    "nodes",
    "reviews",
    "revisions",
    "services",
]
