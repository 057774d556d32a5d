"""Drift on a node: what was seen, kept until the kernel carries what it should, and when ours are put back.

A node's own worker looks (`nodes`), and puts ours back with a convergence. Rules of others that come before
our jumps are kept in the same way, but nobody moves our jumps unless a person asks for it: what comes first
may be somebody's emergency block, and programs that insist on the first place would fight.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils import timezone

from balancer.domain.drift import (
    LINES_KEPT,
    WINDOW,
    are_beside,
    describe_lines,
    name_culprits,
    next_moment,
)
from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE
from balancer.domain.operation import OnDrift
from balancer.kernel.base import Difference
from balancer.models import Deployment, DriftEvent, Job, Node, Revision
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import lock_cluster
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import OPERATE, Actor, require
from balancer.workflow.queueing import queue_job
from balancer.workflow.revisions import live_revision, require_up_to_date

LOOK_EVERY, LOOK_AT_LEAST = timedelta(seconds=10), timedelta(seconds=25)
REST = 50
"""A look that was slow is followed by a rest of so many times its length, up to LOOK_AT_LEAST: with the five
seconds between two ticks, what differs is seen within 30."""
CAUSE_MAX = 200
"""Of `Job.cause`."""
EVENTS_KEPT = 500
"""Of each node."""
LINES_IN_HISTORY = 20
"""Of a difference, in the audit event."""
Kind, How = DriftEvent.Kind, DriftEvent.How


@deed(Action.MENDING_ASKED, target="node")
def put_ours_back(*, actor: Actor, node: Node, event_id: int | None) -> DriftEvent:
    """Have a node put right what it reports, as soon as nothing else is done with it. Needs OPERATE.

    Refused: "state" (it is over), "beside" (no place of our jumps helps), "away" (the node is switched off),
    "outdated".
    """
    require(actor=actor, permission=OPERATE)
    if actor is None:
        raise Refused("forbidden", "Putting rules back is asked for by a person, who answers for it.")
    cluster = lock_cluster(node.cluster)
    event = open_events(node).filter(pk=event_id).first()
    if event is None:
        raise Refused("state", f"{node} does not report that any more. Reload the page.")
    if are_beside(event.lines):
        raise Refused(
            "beside",
            "These rules see the same packets wherever our jumps stand, so there is nothing to put first."
            " The node's page says what lets balanced connections through.",
        )
    require_up_to_date(cluster)
    if not node.enabled:
        raise Refused("away", f"{node} is switched off; let it take part again, then it puts ours back.")
    event.asked_by, event.asked_at = actor, timezone.now()
    event.save(update_fields=["asked_by", "asked_at"])
    facts = {"kind": event.kind, "lines": event.lines[:LINES_IN_HISTORY], "event": event.pk}
    audit.record(actor=actor, action=Action.MENDING_ASKED, target=node, facts=facts)
    running = Deployment.objects.filter(cluster=cluster, state__in=DEPLOYMENT_ACTIVE).exists()
    if not running and not Job.objects.filter(node=node, state__in=JOB_ACTIVE).exists():
        job = queue_job(actor=actor, node=node, revision=live_revision(cluster), cause=_asked(event, actor))
        link_job(node=node, job=job)
    return event


def note_look(*, node: Node, revision: Revision, found: Sequence[Difference], now: datetime) -> bool:
    """Keep what a look at the kernel has found, for both families together; whether it is in sync."""
    lines = tuple(line for one in found for line in one.lines)
    # A chain of nft may be about both families.
    before = tuple(dict.fromkeys(line for one in found for line in one.before))
    culprits = name_culprits(sorted({name for one in found for name in one.programs}))
    in_sync = all(one.in_sync for one in found)
    Node.objects.filter(pk=node.pk).update(
        in_sync=in_sync, sync_detail="\n".join(lines[:LINES_KEPT]), checked_at=now
    )
    known = {event.kind: event for event in open_events(node)}
    _note(known.get(Kind.RULES), Kind.RULES, node, revision, lines, culprits, now)
    if in_sync:  # else it is not known what comes before
        _note(known.get(Kind.ORDER), Kind.ORDER, node, revision, before, culprits, now)
        if node.in_sync is False and Kind.RULES not in known:
            _record_in_sync(node, revision)
    return in_sync


def why_put_back(*, node: Node, now: datetime, urgent: bool = False) -> str:
    """Why ours are to be put back now, where what the node should carry is not in doubt; else empty.

    `urgent`: something waits for it that cannot wait long.
    """
    known = {event.kind: event for event in open_events(node).select_related("asked_by")}
    for event in known.values():
        if event.asked_at is not None and event.asked_by is not None:
            return _asked(event, event.asked_by)
    event = known.get(Kind.RULES)
    if event is None or node.cluster.operation.on_drift is OnDrift.ASK:
        return ""
    moment = next_moment(recently_put_back(node=node, now=now), now=now)
    if moment > now and not urgent:
        _hold(event, until=moment)
        return ""
    return f"Drift: {describe_lines(event.size)} differed from revision {event.revision.number}."


def rest_after(took: timedelta) -> timedelta:
    return min(max(took * REST, LOOK_EVERY), LOOK_AT_LEAST)


def recently_put_back(*, node: Node, now: datetime) -> list[datetime]:
    found = DriftEvent.objects.filter(node=node, how=How.PUT_BACK, ended_at__gt=now - WINDOW)
    return list(found.values_list("ended_at", flat=True))


def open_events(node: Node) -> "QuerySet[DriftEvent]":
    found = DriftEvent.objects.filter(node=node, ended_at__isnull=True)
    return found.select_related("revision").defer("revision__document", "revision__rulesets")


def link_job(*, node: Node, job: Job) -> None:
    """A convergence is to put right what is open; order only where somebody asked for that."""
    events = open_events(node)
    (events.filter(kind=Kind.RULES) | events.filter(asked_at__isnull=False)).update(job=job)


def puts_jumps_first(job: Job) -> bool:
    """Whether somebody has asked that this job move our jumps before the rules of others."""
    return job.drift_events.filter(kind=Kind.ORDER, asked_at__isnull=False, ended_at__isnull=True).exists()


def end_with_job(*, job: Job, now: datetime, by_guard: bool = False) -> None:
    """The kernel carries what it should, after a job that was written, or by the guard in its place."""
    for event in open_events(job.node):
        if event.kind == Kind.ORDER and event.job_id != job.pk:
            continue
        if by_guard:
            how = How.GUARD
        elif job.deployment_id is not None:
            how = How.DEPLOYED
        else:
            how = How.ASKED if event.asked_at is not None else How.PUT_BACK
        _end(event, how=how, now=now, job=None if by_guard else job)


def _note(
    event: DriftEvent | None,
    kind: str,
    node: Node,
    revision: Revision,
    lines: tuple[str, ...],
    culprits: str,
    now: datetime,
) -> None:
    if not lines:
        if event is not None:
            with audit.writing():
                _end(event, how=How.GONE, now=now)
        return
    kept = list(lines[:LINES_KEPT])
    values = {
        "lines": kept,
        "left_out": len(lines) - len(kept),
        "changed_at": now,
        "culprits": culprits[:500],
    }
    if event is not None:
        if (event.lines, event.left_out) != (kept, values["left_out"]):
            DriftEvent.objects.filter(pk=event.pk).update(**values)
        return
    with audit.writing():
        event = DriftEvent.objects.create(node=node, kind=kind, revision=revision, seen_at=now, **values)
        action = Action.NODE_DRIFTED if kind == Kind.RULES else Action.NODE_BEHIND
        audit.record(actor=None, action=action, target=node, facts=_facts(event))
        _forget_old(node)


def _hold(event: DriftEvent, *, until: datetime) -> None:
    if event.held_until == until:
        return
    with audit.writing():
        DriftEvent.objects.filter(pk=event.pk).update(held_until=until)
        facts = _facts(event) | {"until": until.isoformat(), "words": _held(until)}
        audit.record(actor=None, action=Action.MENDING_HELD, target=event.node, facts=facts)


def _end(event: DriftEvent, *, how: str, now: datetime, job: Job | None = None) -> None:
    ended = DriftEvent.objects.filter(pk=event.pk, ended_at__isnull=True).update(
        ended_at=now, how=how, **({"job": job} if job else {})
    )
    if not ended:
        return
    event.how = how
    facts = _facts(event) | {"how": event.get_how_display(), "job": str(job.pk) if job else ""}
    action = Action.NODE_IN_SYNC if how == How.GONE else Action.NODE_MENDED
    audit.record(actor=None, action=action, target=event.node, facts=facts)


def _record_in_sync(node: Node, revision: Revision) -> None:
    with audit.writing():
        facts = {"revision": revision.number, "lines": []}
        audit.record(actor=None, action=Action.NODE_IN_SYNC, target=node, facts=facts)


def _facts(event: DriftEvent) -> dict[str, object]:
    return {
        "node": event.node.name,
        "kind": event.kind,
        "revision": event.revision.number,
        "lines": event.lines[:LINES_IN_HISTORY],
        "number": event.size,
        "seen_at": event.seen_at.isoformat(),
        "culprits": event.culprits,
        "words": f"{describe_lines(event.size)}: {event.lines[0]}" if event.lines else "",
    }


def _asked(event: DriftEvent, actor: User) -> str:
    what = "our jumps first" if event.kind == Kind.ORDER else "ours back"
    return f"{actor.get_username()} asked to put {what}; {describe_lines(event.size)} of drift."[:CAUSE_MAX]


def _held(until: datetime) -> str:
    return f"It was put back too often within an hour; the node waits until {until:%H:%M:%S} UTC."


def _forget_old(node: Node) -> None:
    newest = DriftEvent.objects.filter(node=node).order_by("-pk").values_list("pk", flat=True)
    for oldest in newest[EVENTS_KEPT - 1 : EVENTS_KEPT]:
        DriftEvent.objects.filter(node=node, pk__lt=oldest, ended_at__isnull=False).delete()
