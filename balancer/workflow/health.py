"""What a node's health daemon asks for and writes down: which services to check, and what came of it.

Operational: no approval, no job, no audit event; the worker carries it into the kernel (`health_carrying`).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache

from django.db import transaction

from balancer.domain.health import Standing
from balancer.domain.health_overlay import is_checked
from balancer.domain.lifecycle import JobState
from balancer.domain.overrides import Override, with_overrides
from balancer.domain.types import Service
from balancer.models import BackendHealth, Cluster, HealthEvent, Job, Node, NodeHealth, Revision
from balancer.workflow.clock import Clock
from balancer.workflow.effective import overrides_in_force
from balancer.workflow.health_records import record_events
from balancer.workflow.node_health import forget_others
from balancer.workflow.revisions import document_of

HEARTBEAT_EVERY = timedelta(seconds=1)
WORDS_EVERY = timedelta(seconds=30)
"""Every check says how long it took; a sentence that says the same again is not written more often."""
_FIELDS = ("up", "since", "checked_at", "reason", "warning")
_BATCH = 500


def targets_of(node_name: str) -> tuple[Service, ...]:
    """The enabled services with health checks that the node carries, with the overrides in force.

    Also those of an apply that waits for its confirm. None for a node that is unknown or takes no part.
    """
    node = (
        Node.objects.select_related("cluster").defer("observation", "clients").filter(name=node_name).first()
    )
    if node is None or not node.enabled:
        return ()
    unconfirmed = Job.objects.filter(node=node, state=JobState.UNCONFIRMED).values_list("revision", flat=True)
    revisions = Revision.objects.filter(pk=unconfirmed.first() or node.carried_revision_id)
    digest = revisions.values_list("digest", flat=True).first()
    return () if digest is None else _checked_services(node.cluster, digest)


def record_standings(node_name: str, standings: Sequence[Standing], *, clock: Clock) -> None:
    """Write down what changed, and that the daemon is there. Called a few times a second at most.

    One query reads what is known, and a few statements write all that is new or changed.
    A standing that says what is known already is not written.
    """
    node = Node.objects.only("pk", "name").filter(name=node_name).first()
    if node is None:
        return
    now = clock()
    with transaction.atomic():
        if standings:
            _write(node, {(one.service, one.endpoint): one for one in standings})
        row, _ = NodeHealth.objects.get_or_create(node=node)
        if row.checked_at is None or not row.checked_at <= now < row.checked_at + HEARTBEAT_EVERY:
            NodeHealth.objects.filter(pk=row.pk).update(checked_at=now)


def keep_only(node_name: str, services: Sequence[Service]) -> None:
    """Forget what was found of backends that are none of these services'. Called when these change."""
    for node in Node.objects.only("pk", "name").filter(name=node_name):
        forget_others(node=node, services=services)


def _checked_services(cluster: Cluster, digest: str) -> tuple[Service, ...]:
    return _read_services(cluster.pk, digest, overrides_in_force(cluster))


@lru_cache(maxsize=1)
def _read_services(cluster: int, digest: str, overrides: tuple[Override, ...]) -> tuple[Service, ...]:
    """A daemon asks every few seconds, and what has this digest never changes."""
    revision = Revision.objects.filter(cluster=cluster, digest=digest).order_by("-number")[0]
    document = with_overrides(document_of(revision), overrides)
    return tuple(service for service in document.services if is_checked(service))


def _write(node: Node, standings: dict[tuple[str, str], Standing]) -> None:
    names = {service for service, _ in standings}
    rows = BackendHealth.objects.filter(node=node, service_name__in=names)
    known = {(row.service_name, row.endpoint): row for row in rows}
    told = [_beside(known.get(key), one) for key, one in standings.items()]
    news = [one for one in told if _is_news(known.get((one.service, one.endpoint)), one)]
    events = [_event(node, one) for one in news if _has_turned(known.get((one.service, one.endpoint)), one)]
    BackendHealth.objects.bulk_create(
        (_row(node, standing) for standing in news),
        update_conflicts=True,
        unique_fields=["node", "service_name", "endpoint"],
        update_fields=_FIELDS,
        batch_size=_BATCH,
    )
    record_events(node, events)


def _beside(row: BackendHealth | None, standing: Standing) -> Standing:
    """A daemon that cannot check does not know what the one before it found, but says why it cannot."""
    if row is None or row.up is None or standing.up is not None or not standing.warning:
        return standing
    return replace(standing, up=row.up, since=row.since)


def _is_news(row: BackendHealth | None, standing: Standing) -> bool:
    if row is None:
        return True
    if standing.up is None and row.up is not None:
        return False  # a daemon that has just begun does not know yet what the one before it found
    if (row.up, row.warning) != (standing.up, standing.warning):
        return True
    return row.reason != standing.reason and abs(standing.checked_at - row.checked_at) >= WORDS_EVERY


def _has_turned(row: BackendHealth | None, standing: Standing) -> bool:
    """Whether the log is to tell; who is found up at first is where everybody thought."""
    before = True if row is None or row.up is None else row.up
    return standing.up is not None and standing.up != before


def _row(node: Node, standing: Standing) -> BackendHealth:
    told = {name: getattr(standing, name) for name in _FIELDS}
    return BackendHealth(node=node, service_name=standing.service, endpoint=standing.endpoint, **told)


def _event(node: Node, standing: Standing) -> HealthEvent:
    return HealthEvent(
        node=node,
        at=standing.since,
        service_name=standing.service,
        endpoint=standing.endpoint,
        kind=HealthEvent.Kind.UP if standing.up else HealthEvent.Kind.DOWN,
        why=standing.reason,
    )
