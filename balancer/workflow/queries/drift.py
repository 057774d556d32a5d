"""Drift of the nodes as people see it: what differs, since when, and what becomes of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from balancer.domain.drift import are_beside
from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, JobState
from balancer.domain.operation import OnDrift
from balancer.models import Cluster, Deployment, DriftEvent, Node
from balancer.workflow.revisions import is_outdated, live_revision

HISTORY = 10
_LONG = ("revision__document", "revision__rulesets", "node__observation", "node__clients", "node__facts")


@dataclass(frozen=True, slots=True)
class DriftLine:
    kind: str
    """`added`: missing in the kernel; `removed`: there and should not be; empty: a rule of others."""
    text: str


@dataclass(frozen=True, slots=True)
class DriftView:
    event: DriftEvent
    lines: tuple[DriftLine, ...]
    words: str
    """What becomes of it, or became; a sentence or two."""
    can_ask: bool
    """Somebody may have it put right now."""

    @property
    def is_order(self) -> bool:
        return self.event.kind == DriftEvent.Kind.ORDER

    @property
    def is_beside(self) -> bool:
        """These rules decide wherever our jumps stand."""
        return are_beside(self.event.lines)


def list_drift(*, cluster: Cluster) -> tuple[DriftView, ...]:
    """What the nodes of a cluster report at this moment."""
    return _view(
        DriftEvent.objects.filter(node__cluster=cluster, ended_at__isnull=True).order_by("node__name")
    )


def view_drift(*, node: Node) -> tuple[DriftView, ...]:
    """What the node reports at this moment."""
    return _view(DriftEvent.objects.filter(node=node, ended_at__isnull=True).order_by("-kind"))


def drift_history(*, node: Node) -> tuple[DriftView, ...]:
    """What is over, the latest first."""
    return _view(DriftEvent.objects.filter(node=node, ended_at__isnull=False).order_by("-pk")[:HISTORY])


def _view(events: Iterable[DriftEvent]) -> tuple[DriftView, ...]:
    found = events.select_related("node__cluster", "revision", "asked_by", "job").defer(*_LONG)  # type: ignore[attr-defined]
    return tuple(
        DriftView(
            event=event,
            lines=tuple(_line(line) for line in event.lines),
            words=_ended(event) if event.ended_at else _open(event),
            can_ask=_can_ask(event),
        )
        for event in found
    )


def _can_ask(event: DriftEvent) -> bool:
    if event.ended_at is not None or event.asked_at is not None or not event.node.enabled:
        return False
    if are_beside(event.lines):
        return False
    return not is_outdated(live_revision(event.node.cluster))


def _line(text: str) -> DriftLine:
    kind = {"+ ": "added", "- ": "removed"}.get(text[:2], "")
    return DriftLine(kind, text[2:] if kind else text)


def _ended(event: DriftEvent) -> str:
    how = event.get_how_display()
    if event.how == DriftEvent.How.ASKED and event.asked_by is not None:
        how = f"put back because {event.asked_by.get_username()} asked for it"
    return f"{how[0].upper()}{how[1:]}."


def _open(event: DriftEvent) -> str:
    running = Deployment.objects.filter(cluster=event.node.cluster_id, state__in=DEPLOYMENT_ACTIVE).exists()
    if event.asked_by is not None:
        when = " when the deployment is over" if running else " at its next look"
        return f"{event.asked_by.get_username()} asked for it to be put right; the node does so{when}."
    if are_beside(event.lines):
        return (
            "Nothing of ours differs, but these rules see the same packets, wherever our jumps stand,"
            " and may drop or redirect balanced connections. lbadmin leaves them alone; the notes on the"
            " node's page say what lets connections through."
        )
    if event.kind == DriftEvent.Kind.ORDER:
        return (
            "Nothing of ours differs, but these rules decide first. lbadmin leaves its jumps where they are:"
            " what comes before may be meant to, an emergency block for instance."
        )
    if is_outdated(live_revision(event.node.cluster)):
        return (
            "What is live was compiled by another lbadmin, so it can only be put right by applying a change."
        )
    if running:
        return "A change is being applied; what still differs afterwards is put back then."
    if event.node.cluster.operation.on_drift is OnDrift.ASK:
        return (
            "The policy of the cluster leaves it to people: it stays so until an operator acts. Until then"
            " the node carries no changes of health or weights into this kernel."
        )
    if event.job is not None and event.job.state in JOB_ACTIVE:
        return "It is being put back."
    if event.job is not None and event.job.state == JobState.FAILED:
        return f"It could not be put back: {event.job.error} The node tries again, less and less often."
    if event.held_until is not None:
        return (
            "It was put back several times within an hour and came again, so the node waits until"
            f" {event.held_until:%H:%M:%S} UTC before it does so once more, or until a health check has news."
        )
    return "The node puts it back at its next look."
