"""What a node carries: a revision with the overrides in force laid over it.

Overrides are in no document, in no revision and in no digest that is approved (ADR 0013).
"""

from dataclasses import dataclass
from ipaddress import ip_address

from django.db.models import QuerySet

from balancer.domain.overrides import Override, digest_overrides, override_from_data, with_overrides
from balancer.domain.types import BackendState, Document
from balancer.models import Cluster, Job, Revision
from balancer.models import Override as OverrideRecord
from balancer.workflow.revisions import document_of


@dataclass(frozen=True, slots=True)
class Effective:
    """What a node carries: a revision's document with overrides laid over it, read at one moment."""

    document: Document
    overrides: tuple[Override, ...]

    @property
    def digest(self) -> str:
        """Of the overrides; empty where there are none. `Node.carried_overrides` is compared with it."""
        return digest_overrides(self.overrides)


def effective_of(*, cluster: Cluster, revision: Revision) -> Effective:
    """With the overrides that are in force now, whatever was in force when the revision was made."""
    overrides = overrides_in_force(cluster)
    return Effective(with_overrides(document_of(revision), overrides), overrides)


def effective_of_job(job: Job) -> Effective:
    """What the job wrote: its revision with the overrides of its receipt, whatever was set or lifted since.

    For whoever compares the kernel with what a job brought, or proves afterwards what it did.
    """
    receipts = list((job.receipt or {}).values())
    kept = receipts[0].get("overrides", []) if receipts else []
    overrides = tuple(override_from_data(data) for data in kept)
    return Effective(with_overrides(document_of(job.revision), overrides), overrides)


def effective_document(cluster: Cluster, revision: Revision) -> Document:
    """What the cluster's nodes should carry of a revision."""
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
