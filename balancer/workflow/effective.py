"""What a node carries: a revision with the overrides in force laid over it, then what the node's health
checks found, then the node's own weights.

None of it is in a document, in a revision or in a digest that is approved (ADR 0013, 0014, 0017). Overrides
are those of the cluster; health, and weights that a node moves itself, are each node's own.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from django.db.models import QuerySet

from balancer.domain.health_overlay import HealthOverlay, with_health
from balancer.domain.overrides import Override, digest_overrides, override_from_data, with_overrides
from balancer.domain.own_weights import OwnWeights, digest_own_weights, own_weights, with_own_weights
from balancer.domain.types import BackendState, Document
from balancer.kernel.base import KernelError
from balancer.models import Cluster, Job, Node, Revision
from balancer.models import Override as OverrideRecord
from balancer.ruleset.ir import Ruleset
from balancer.workflow.node_health import overlay_of, wanted_overlay
from balancer.workflow.node_weights import memory_of
from balancer.workflow.revisions import (
    document_of,
    is_outdated,
    kept_rulesets,
    node_rulesets,
    why_outdated,
)


@dataclass(frozen=True, slots=True)
class Effective:
    """What a node carries: a revision's document with all that is laid over it, read at one moment."""

    approved: Document
    """With the overrides, the weights as declared and every backend up: what a guard goes back to."""
    overrides: tuple[Override, ...]
    health: HealthOverlay
    weights: OwnWeights
    """Both the node's own; none where it is about no node."""

    @property
    def healthy(self) -> Document:
        """With what the node's health checks found, and the weights as declared."""
        return with_health(self.approved, self.health)

    @property
    def document(self) -> Document:
        """With the node's own weights as well: what its kernel is to hold."""
        return with_own_weights(self.healthy, self.weights)

    @property
    def digest(self) -> str:
        """Of the overrides; empty where there are none. `Node.carried_overrides` is compared with it."""
        return digest_overrides(self.overrides)

    @property
    def health_digest(self) -> str:
        """Empty where nothing is down. `Node.carried_health` is compared with it."""
        return self.health.digest

    @property
    def weights_digest(self) -> str:
        """Empty where the weights are as declared. `Node.carried_weights` is compared with it."""
        return digest_own_weights(self.weights)

    def to_data(self) -> dict[str, Any]:
        """For receipts: what was laid over the revision."""
        overrides = [override.to_data() for override in self.overrides]
        found = {"health": self.health.to_data(), "weights": self.weights}
        return {"overrides": overrides} | {key: value for key, value in found.items() if value}


def effective_of(*, cluster: Cluster, revision: Revision, node: Node | None = None) -> Effective:
    """With the overrides that are in force now, whatever was in force when the revision was made; for a node
    also with the health that it carries and the weights that it moved itself."""
    overrides = overrides_in_force(cluster)
    approved = with_overrides(document_of(revision), overrides)
    if node is None:
        return Effective(approved, overrides, HealthOverlay(), {})
    return with_node_weights(Effective(approved, overrides, overlay_of(node, approved), {}), node=node)


def effective_now(*, cluster: Cluster, revision: Revision, node: Node, now: datetime) -> Effective:
    """The same with the health that its checks find now: what a job is to write."""
    carried = effective_of(cluster=cluster, revision=revision, node=node)
    return renew_health(carried, node=node, now=now)


def renew_health(effective: Effective, *, node: Node, now: datetime) -> Effective:
    """The same with the health that the node's checks find now; equal where that is what it has."""
    health = wanted_overlay(node=node, document=effective.approved, before=effective.health, now=now)
    return with_node_weights(replace(effective, health=health), node=node)


def with_node_weights(effective: Effective, *, node: Node) -> Effective:
    """With the weights of the node that go with its health: whoever has just come back rises."""
    healthy = effective.healthy
    return replace(effective, weights=own_weights(healthy, memory_of(node, healthy)))


def carries(node: Node, effective: Effective) -> bool:
    """Whether the node is known to carry just this of what is laid over its revision."""
    carried = node.carried_overrides, node.carried_health, node.carried_weights
    return carried == (effective.digest, effective.health_digest, effective.weights_digest)


def rulesets_on_nodes(revision: Revision, effective: Effective) -> tuple[Ruleset, ...]:
    """What the kernel of a node is to hold, IPv4 first. Of an outdated revision the rules that were kept;
    raises KernelError where another lbadmin laid something over them, for then nobody can tell."""
    if not is_outdated(revision):
        return tuple(node_rulesets(effective.document).values())
    if effective.document != document_of(revision):
        raise KernelError(
            f"{why_outdated(revision)} As overrides, health or weights of its own are laid over it, this node"
            " cannot be compared with it."
        )
    return kept_rulesets(revision)


def effective_of_job(job: Job) -> Effective:
    """What the job wrote: its revision with what its receipt names, whatever was set, lifted or moved since.

    For whoever compares the kernel with what a job brought, or proves afterwards what it did.
    """
    receipts = list((job.receipt or {}).values())
    kept = receipts[0] if receipts else {}
    overrides = tuple(override_from_data(data) for data in kept.get("overrides", []))
    approved = with_overrides(document_of(job.revision), overrides)
    health = HealthOverlay.from_data(kept.get("health", {}))
    return Effective(approved, overrides, health, kept.get("weights", {}))


def effective_document(cluster: Cluster, revision: Revision) -> Document:
    """What the cluster's nodes should carry of a revision, but for what is each node's own."""
    return effective_of(cluster=cluster, revision=revision).document


def overrides_in_force(cluster: Cluster) -> tuple[Override, ...]:
    return tuple(value_of(row) for row in active_overrides(cluster))


def active_overrides(cluster: Cluster) -> "QuerySet[OverrideRecord]":
    """The rows of those that nobody has lifted."""
    found = OverrideRecord.objects.filter(cluster=cluster, lifted_at__isnull=True)
    return found.select_related("set_by").order_by("service_name", "address", "port", "kind")


def value_of(row: OverrideRecord) -> Override:
    return Override(
        service=row.service_name,
        address=ip_address(row.address),
        port=row.port,
        state=BackendState(row.state) if row.state else None,
        weight=row.weight,
    )
