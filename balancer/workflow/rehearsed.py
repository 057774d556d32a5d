"""What the rehearsals of a change say about what it proposes now. Reads only."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from balancer.domain.lifecycle import CHANGE_REVIEWED, REHEARSAL_ACTIVE, REHEARSAL_JUDGED, RehearsalState
from balancer.domain.operation import Rehearse
from balancer.models import Change, Cluster, Node, Rehearsal
from balancer.workflow.changes import digest_change
from balancer.workflow.errors import Refused
from balancer.workflow.presence import is_absent


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What a rehearsal counts for: nodes of one kind load a ruleset in the same way."""

    flavour: str
    driver: str

    def __str__(self) -> str:
        return f"{self.flavour} through {self.driver}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """On what a change of a cluster has to be rehearsed."""

    nodes: dict[Kind, Node]
    """For each kind among the nodes that take part, the one whose worker was seen most recently."""
    unknown: tuple[str, ...]
    """Nodes that take part and whose kind nobody knows, as their worker was never seen; sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the rehearsals of a change say about what it proposes now."""

    passed: bool
    pending: bool
    """None has failed, and there is one to wait for."""
    why_not: str
    """Sentences, empty where it has passed: what failed, or what to wait for or to do."""


def is_required(cluster: Cluster) -> bool:
    return cluster.operation.rehearsal is Rehearse.REQUIRED


def why_not_rehearsed(change: Change) -> str | None:
    """Why the change must not be approved or applied for want of a passed rehearsal of exactly what it
    proposes, in sentences with the measured numbers; None where it may."""
    if not is_required(change.cluster):
        return None
    return standing_of(change).why_not or None


def require_rehearsed(change: Change) -> None:
    """Refused("not-rehearsed") where the policy asks for a rehearsal and it has not passed."""
    why_not = why_not_rehearsed(change)
    if why_not is not None:
        raise Refused("not-rehearsed", why_not)


def standing_of(change: Change, *, since: datetime | None = None) -> Standing:
    """Whatever the policy says; with `since`, only what was asked for at that moment or later counts."""
    wanted = wanted_nodes(change.cluster)
    found = [judge_kind(change, kind, since=since) for kind in sorted(wanted.nodes)]
    if not found:
        # The facts of all nodes may be gone for a moment; what was measured is still true then.
        rows = _rehearsals(change, since=since).filter(state=RehearsalState.PASSED)
        passed = bool(wanted.unknown) and rows.exists()
        return Standing(passed=passed, pending=False, why_not="" if passed else why_nobody(wanted))
    failed = [one for one in found if not one.passed and not one.pending]
    return Standing(
        passed=all(one.passed for one in found),
        pending=not failed and any(one.pending for one in found),
        why_not=" ".join(one.why_not for one in failed or found if one.why_not),
    )


def latest_rehearsals(change: Change) -> tuple[Rehearsal, ...]:
    """The newest of each kind of node, those of what the change proposes now before older ones; by node."""
    newest: dict[tuple[str, str], Rehearsal] = {}
    found = Rehearsal.objects.filter(change=change).select_related("node", "change", "requested_by")
    rows = list(found.order_by("-queued_at"))
    digest = digest_of(change) if rows else ""
    for row in rows:
        key = row.flavour, row.driver
        known = newest.get(key)
        if known is None or (_rank(row, digest) > _rank(known, digest)):
            newest[key] = row
    return tuple(sorted(newest.values(), key=lambda row: row.node.name))


def show_rehearsals(change: Change) -> tuple[dict[str, Any], ...]:
    """What `latest_rehearsals` gives, as JSON data, for pages and for what is kept of a review.

    Keys: node, on, state, digest, ruleset, current (of what the change proposes now), cause, asked_at,
    ended_at (ISO 8601, empty), result (`lab.rehearsal.Rehearsal.to_data()` or null), error, waits_for.
    """
    return tuple(_show(row) for row in latest_rehearsals(change))


def digest_of(change: Change) -> str:
    """What a rehearsal of the change is bound to; while it is a draft, what submitting it would fix."""
    return change.digest or digest_change(change)


def wanted_nodes(cluster: Cluster) -> Wanted:
    nodes: dict[Kind, Node] = {}
    unknown = []
    for node in Node.objects.filter(cluster=cluster, enabled=True).defer("observation").order_by("name"):
        kind = kind_of(node)
        if kind is None:
            unknown.append(node.name)
        elif kind not in nodes or _seen_later(node, nodes[kind]):
            nodes[kind] = node
    return Wanted(nodes=nodes, unknown=tuple(unknown))


def kind_of(node: Node) -> Kind | None:
    """By the facts that its worker has told; None before that."""
    flavour, driver = node.facts.get("flavour"), node.facts.get("driver")
    return Kind(flavour, driver) if flavour and driver else None


def unrehearsed_changes(*, cluster: Cluster, kind: Kind) -> Iterable[Change]:
    """Those under review of which nobody has asked for a rehearsal on this kind as they are now."""
    for change in Change.objects.filter(cluster=cluster, state__in=CHANGE_REVIEWED).order_by("pk"):
        if not _rehearsals(change).filter(flavour=kind.flavour, driver=kind.driver).exists():
            yield change


def describe_failure(rehearsal: Rehearsal) -> str:
    """What was found, with the numbers, in sentences."""
    if rehearsal.result is None:
        return f"The rehearsal on {rehearsal.node} could not be made. {rehearsal.error}"
    told = [f"{s['name']}: {s['verdict']}" for s in rehearsal.result["services"] if not s["passed"]]
    return " ".join([f"The rehearsal on {rehearsal.node} failed. {rehearsal.result['verdict']}", *told])


def _rehearsals(change: Change, *, since: datetime | None = None) -> "QuerySet[Rehearsal]":
    """Those of exactly what the change proposes now, the newest first."""
    found = Rehearsal.objects.filter(change=change, digest=digest_of(change))
    if since is not None:
        found = found.filter(queued_at__gte=since)
    return found.exclude(state=RehearsalState.CANCELLED).select_related("node").order_by("-queued_at")


def judge_kind(change: Change, kind: Kind, *, since: datetime | None = None) -> Standing:
    """For one kind of node the last that ended decides; one under way is waited for where that failed."""
    rows = list(_rehearsals(change, since=since).filter(flavour=kind.flavour, driver=kind.driver))
    judged = next((row for row in rows if row.state in REHEARSAL_JUDGED), None)
    if judged is not None and judged.state == RehearsalState.PASSED:
        return Standing(passed=True, pending=False, why_not="")
    active = next((row for row in rows if row.state in REHEARSAL_ACTIVE), None)
    if active is not None:
        return Standing(passed=False, pending=True, why_not=_why_wait(active))
    if judged is not None:
        return Standing(passed=False, pending=False, why_not=describe_failure(judged))
    why_not = f"{change} was not rehearsed for {kind} as it is now. Press “Rehearse again”, and wait."
    return Standing(passed=False, pending=False, why_not=why_not)


def _why_wait(rehearsal: Rehearsal) -> str:
    node = rehearsal.node
    if is_absent(node=node, now=timezone.now()):
        return (
            f"The rehearsal waits for the worker of {node}, which does not answer. Start it, or switch the"
            " node off."
        )
    return f"It is being rehearsed on {node}; wait for the result."


def why_nobody(wanted: Wanted) -> str:
    """Why nothing can be rehearsed where no kind of node is known, and what to do."""
    if not wanted.unknown:
        return "It cannot be rehearsed: the cluster has no node that takes part. Add or enable one."
    return (
        f"It cannot be rehearsed: no worker was seen yet. Start the worker of {' or '.join(wanted.unknown)};"
        " it then begins by itself."
    )


def _show(row: Rehearsal) -> dict[str, Any]:
    return {
        "node": row.node.name,
        "on": f"{row.flavour} through {row.driver}",
        "state": str(row.state),
        "digest": row.digest,
        "ruleset": row.ruleset_digest,
        "current": row.digest == digest_of(row.change),
        "cause": row.cause,
        "asked_at": row.queued_at.isoformat(),
        "ended_at": row.finished_at.isoformat() if row.finished_at else "",
        "result": row.result,
        "error": row.error,
        "waits_for": _why_wait(row) if row.state in REHEARSAL_ACTIVE else "",
    }


def _seen_later(node: Node, other: Node) -> bool:
    return node.last_seen is not None and (other.last_seen is None or node.last_seen > other.last_seen)


def _rank(row: Rehearsal, digest: str) -> tuple[bool, bool]:
    return row.digest == digest, row.state != RehearsalState.CANCELLED
