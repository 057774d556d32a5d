"""Revisions: one of them, and the difference between two."""

import json
from dataclasses import dataclass
from typing import Any

from balancer.domain.diff import DiffLine, FieldChange, diff_lines, diff_services
from balancer.models import Deployment, Revision
from balancer.workflow.traffic import joined_rulesets, service_value


@dataclass(frozen=True, slots=True)
class RevisionView:
    revision: Revision
    live: bool
    document: str
    """JSON text."""
    rulesets: dict[str, str]
    """Family -> text for iptables-restore."""
    deployments: tuple[Deployment, ...]
    """Attempts to apply it, the latest first."""
    previous: Revision | None


@dataclass(frozen=True, slots=True)
class ServiceDiff:
    name: str
    action: str
    """create, modify or delete."""
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class RevisionDiff:
    before: Revision
    after: Revision
    services: tuple[ServiceDiff, ...]
    document: tuple[DiffLine, ...]
    ruleset: tuple[DiffLine, ...]


def view_revision(*, revision: Revision) -> RevisionView:
    earlier = Revision.objects.filter(cluster=revision.cluster, number__lt=revision.number)
    return RevisionView(
        revision=revision,
        live=revision.cluster.live_revision_id == revision.pk,
        document=revision.document,
        rulesets=dict(revision.rulesets),
        deployments=tuple(revision.deployments.order_by("-pk")),
        previous=earlier.order_by("-number").first(),
    )


def diff_revisions(*, before: Revision, after: Revision) -> RevisionDiff:
    """From one revision to another, of the same cluster or not, in either direction."""
    old, new = _services(before), _services(after)
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return RevisionDiff(
        before=before,
        after=after,
        services=tuple(_diff_service(name, old.get(name), new.get(name)) for name in names),
        document=diff_lines(before.document, after.document),
        ruleset=diff_lines(joined_rulesets(before.rulesets), joined_rulesets(after.rulesets)),
    )


def _services(revision: Revision) -> dict[str, dict[str, Any]]:
    """By name; read leniently, so that a revision of an older version can still be looked at."""
    return {service["name"]: service for service in json.loads(revision.document)["services"]}


def _diff_service(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> ServiceDiff:
    action = "create" if before is None else "delete" if after is None else "modify"
    return ServiceDiff(
        name=name, action=action, fields=diff_services(service_value(before), service_value(after))
    )
