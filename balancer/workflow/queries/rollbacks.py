"""The way back: whether it brings the very rules of then, and which services it could bring."""

from dataclasses import dataclass

from balancer.domain.codec import load_document
from balancer.domain.types import Document
from balancer.models import Change, Cluster, Node, Revision
from balancer.workflow.changes import rollback_target
from balancer.workflow.documents import live_services
from balancer.workflow.effective import overrides_in_force
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import APPLY, ROLL_BACK, Actor, may
from balancer.workflow.revisions import render_rulesets
from balancer.workflow.waivers import previous_revision


@dataclass(frozen=True, slots=True)
class WayBack:
    """What a rollback to a revision makes of the kernels."""

    revision: Revision
    identical: bool
    """The ruleset is byte for byte the one that was recorded with the revision."""
    reasons: tuple[str, ...]
    """Why it is not, or what differs on some node all the same, in sentences."""


def view_way_back(change: Change) -> WayBack | None:
    """None where the change is no rollback."""
    if change.rollback_of is None:
        return None
    return judge_way_back(revision=change.rollback_of, services=change.rollback_services)


def judge_way_back(*, revision: Revision, services: list[str] | None = None) -> WayBack:
    if services is not None:
        names = ", ".join(services)
        why = f"Only {names} of revision {revision.number} come back; all other services stay as they are."
        return WayBack(revision=revision, identical=False, reasons=(why, *_on_nodes(revision)))
    document, problems = load_document(revision.document)
    if document is None:
        why = f"This version of lbadmin cannot read revision {revision.number}: {problems[0]}"
        return WayBack(revision=revision, identical=False, reasons=(why,))
    if render_rulesets(document) != revision.rulesets:
        why = (
            f"This version of lbadmin compiles the document of revision {revision.number} to other rules than"
            " the version that made it. The document comes back as it was, and the rules are those of today."
        )
        return WayBack(revision=revision, identical=False, reasons=(why, *_on_nodes(revision)))
    return WayBack(revision=revision, identical=True, reasons=_on_nodes(revision))


def differing_services(*, revision: Revision) -> tuple[str, ...]:
    """The services that a rollback to the revision would change, by name."""
    live = live_services(revision.cluster)
    try:
        target = rollback_target(revision=revision, services=None, live=live)
    except Refused:
        return ()
    return tuple(name for name, after in target.items() if after != live.get(name))


def revision_at_once(*, cluster: Cluster, user: Actor) -> Revision | None:
    """Where this person could go back to without an approval; None where the policy or the roles say no."""
    allowed = all(may(actor=user, permission=permission) for permission in (ROLL_BACK, APPLY))
    if not allowed or not cluster.operation.rollback_at_once:
        return None
    try:
        return previous_revision(cluster)
    except Refused:
        return None


def _on_nodes(revision: Revision) -> tuple[str, ...]:
    """What keeps the rules of a node from being, or from doing, what they were and did then."""
    document, _ = load_document(revision.document)
    if document is None:
        return ()
    found = [
        f"The node {node} has no interface {interface} (any more), so what is to come in there finds no rules"
        " to act on it."
        for node in Node.objects.filter(cluster=revision.cluster, enabled=True).defer("observation")
        for interface in _missing(node=node, document=document)
    ]
    count = len(overrides_in_force(revision.cluster))
    if count:
        found.append(
            f"{count} operational override{'s are' if count > 1 else ' is'} in force and"
            f" stay{'' if count > 1 else 's'} so; the nodes differ by {'them' if count > 1 else 'it'}."
        )
    return tuple(found)


def _missing(*, node: Node, document: Document) -> list[str]:
    """Interfaces of the document that the node does not have; none where nobody knows."""
    there = {interface["name"] for interface in node.facts.get("interfaces", ())}
    wanted = {name for service in document.services if service.enabled for name in service.interfaces}
    return sorted(wanted - there) if there else []
