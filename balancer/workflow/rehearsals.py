"""Asking for rehearsals of a change, and giving up on them; `rehearsing` carries them out."""

from datetime import datetime

from django.utils import timezone

from balancer.domain.lifecycle import (
    CHANGE_REHEARSABLE,
    REHEARSAL_ACTIVE,
    ChangeDeed,
    ChangeState,
    RehearsalState,
)
from balancer.models import Change, Draft, Node, Rehearsal
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import advance, approvals_required, lock_change, require_drafter
from balancer.workflow.documents import candidate_document
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import APPROVE, Actor, may
from balancer.workflow.presence import is_absent
from balancer.workflow.queue import publish_on_commit
from balancer.workflow.rehearsed import (
    Kind,
    digest_of,
    is_required,
    judge_kind,
    wanted_nodes,
    why_nobody,
    why_not_rehearsed,
)


@deed(Action.REHEARSAL_QUEUED, target="change")
def request_rehearsal(*, actor: Actor, change: Change) -> tuple[Rehearsal, ...]:
    """Have what the change proposes rehearsed (again), once for each kind of node. Needs a part in the change
    and the right to edit it, or APPROVE.

    Refused: "state", "nothing" (no drafts, or no node that could do it), "invalid", "busy" (it is being
    rehearsed already).
    """
    change = lock_change(change)
    if not may(actor=actor, permission=APPROVE):
        require_drafter(actor=actor, change=change)
    if change.state not in CHANGE_REHEARSABLE:
        raise Refused("state", f"{change} is {change.state}; there is nothing to rehearse any more.")
    if not Draft.objects.filter(change=change).exists():
        raise Refused(
            "nothing", f"{change} has no drafts, so there is nothing to rehearse. Edit a service first."
        )
    candidate_document(change)
    wanted = wanted_nodes(change.cluster)
    if not wanted.nodes:
        raise Refused("nothing", why_nobody(wanted))
    queued = _queue(actor=actor, change=change, nodes=wanted.nodes, cause="")
    if not queued:
        raise Refused("busy", f"{change} is being rehearsed already; wait for the result.")
    return queued


def queue_missing(*, actor: Actor, change: Change, cause: str) -> tuple[Rehearsal, ...]:
    """Queue what the policy asks for and has not passed yet. Part of the deed that made it necessary."""
    if not is_required(change.cluster):
        return ()
    wanted = wanted_nodes(change.cluster).nodes
    missing = {kind: node for kind, node in wanted.items() if not judge_kind(change, kind).passed}
    return _queue(actor=actor, change=change, nodes=missing, cause=cause)


def request_fresh(*, change: Change, reason: str, actor: Actor = None) -> datetime:
    """Have it rehearsed anew on every kind of node, whatever was found before; what is under way is dropped.

    Gives the moment from which `standing_of(change, since=…)` counts. Part of a deed: the caller has locked
    the change inside `audit.writing()`, and `reason` says why in words.
    """
    since = timezone.now()
    cancel_rehearsals(change=change, why=reason, actor=actor)
    _queue(actor=actor, change=change, nodes=wanted_nodes(change.cluster).nodes, cause=reason)
    return since


def cancel_rehearsals(*, change: Change, why: str, actor: Actor = None) -> None:
    """Give up on those under way; what a worker is at comes to nothing. Part of the deed that says why."""
    active = Rehearsal.objects.filter(change=change, state__in=REHEARSAL_ACTIVE).select_related("node")
    for rehearsal in active:
        cancel_rehearsal(rehearsal=rehearsal, why=why, actor=actor)


def cancel_rehearsal(*, rehearsal: Rehearsal, why: str, actor: Actor = None) -> bool:
    mine = Rehearsal.objects.filter(pk=rehearsal.pk, state__in=REHEARSAL_ACTIVE)
    if mine.update(state=RehearsalState.CANCELLED, error=why, finished_at=timezone.now()) != 1:
        return False
    facts = {"node": rehearsal.node.name, "why": why}
    audit.record(actor=actor, action=Action.REHEARSAL_CANCELLED, target=rehearsal.change, facts=facts)
    return True


def approve_unasked(change: Change) -> None:
    """Approve a change of which the policy asks no approval, as soon as nothing else is missing either.

    Part of the deed that brought what was missing; the change is locked.
    """
    if change.state != ChangeState.SUBMITTED or approvals_required(change) > 0:
        return
    if why_not_rehearsed(change) is not None:
        return
    advance(change=change, deed=ChangeDeed.APPROVE)
    facts = {"digest": change.digest, "why": "The policy asks for no approval."}
    audit.record(actor=None, action=Action.CHANGE_APPROVED, target=change, facts=facts)


def _queue(*, actor: Actor, change: Change, nodes: dict[Kind, Node], cause: str) -> tuple[Rehearsal, ...]:
    queued = []
    for kind, node in sorted(nodes.items()):
        if not _make_room(change=change, kind=kind, node=node):
            continue
        rehearsal = Rehearsal.objects.create(
            change=change,
            node=node,
            digest=digest_of(change),
            flavour=kind.flavour,
            driver=kind.driver,
            requested_by=actor,
            cause=cause,
            queued_at=timezone.now(),
        )
        facts = {"node": node.name, "on": str(kind), "digest": rehearsal.digest, "cause": cause}
        audit.record(actor=actor, action=Action.REHEARSAL_QUEUED, target=change, facts=facts)
        publish_on_commit(rehearsal)
        queued.append(rehearsal)
    return tuple(queued)


def _make_room(*, change: Change, kind: Kind, node: Node) -> bool:
    """Whether one of this kind may be queued: none of the same is under way on a node that is there."""
    active = Rehearsal.objects.filter(change=change, state__in=REHEARSAL_ACTIVE).select_related("node")
    same_kind = active.filter(flavour=kind.flavour, driver=kind.driver)
    for rehearsal in (same_kind | active.filter(node=node)).distinct():
        current = rehearsal.digest == digest_of(change) and kind == Kind(rehearsal.flavour, rehearsal.driver)
        there = rehearsal.node_id == node.pk or not is_absent(node=rehearsal.node, now=timezone.now())
        if current and there:
            return False
        why = "Something else is to be rehearsed." if there else f"{rehearsal.node} does not answer."
        cancel_rehearsal(rehearsal=rehearsal, why=why)
    return True
