"""The clients that services with persistence remember: how many there are, and forgetting them when asked to.

A row for each node says what to forget; the message is a tick, which says nothing. To forget twice does no
harm, so a worker that dies in between leaves a row that the next one carries out (no claim is needed).
"""

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import ClearingState
from balancer.domain.types import PersistenceMode, Service
from balancer.kernel.base import Busy, Kernel, KernelError
from balancer.models import Clearing, Cluster, Node
from balancer.models import Service as ServiceRow
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import lock_cluster
from balancer.workflow.clock import Clock
from balancer.workflow.documents import live_document, service_named
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import OPERATE, Actor, require
from balancer.workflow.queue import publish_tick_on_commit

REPORT_EVERY = timedelta(seconds=10)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ClientsMemory:
    """Of a worker process, from one tick to the next."""

    due: datetime | None = None


@deed(Action.CLEARING_ASKED, target="cluster")
def clear_persistence(
    *, actor: Actor, cluster: Cluster, service: str, endpoint: str = ""
) -> tuple[Clearing, ...]:
    """Let every node that takes part forget the clients of a live service, or of one of its backends.

    Each of them is balanced anew with its next connection; the connections that it has live on. Needs
    OPERATE. Refused: "state" (the service keeps no clients, or no node takes part), "invalid" (no such
    backend), "nothing" (every node has been asked already).
    """
    person = _require_operator(actor)
    cluster = lock_cluster(cluster)
    _require_kept(service_named(live_document(cluster), service), name=service, endpoint=endpoint)
    nodes = (
        Node.objects.filter(cluster=cluster, enabled=True).defer("observation", "clients").order_by("name")
    )
    if not nodes:
        raise Refused("state", f"No node of {cluster} takes part, so there is nothing that could forget.")
    asked = Clearing.objects.filter(service_name=service, endpoint=endpoint, state=ClearingState.QUEUED)
    free = nodes.exclude(pk__in=asked.values("node"))
    rows = _queue(person, nodes=list(free), service=service, endpoint=endpoint)
    if not rows:
        raise Refused("nothing", "Every node has been asked already; it does so as soon as its worker runs.")
    facts = {
        "cluster": cluster.name,
        "service": service,
        "endpoint": endpoint,
        "words": rows[0].place,
        "nodes": [row.node.name for row in rows],
        "request": str(rows[0].request),
    }
    audit.record(actor=person, action=Action.CLEARING_ASKED, target=cluster, facts=facts)
    for row in rows:
        publish_tick_on_commit(row.node)
    return rows


def carry_out_clearings(*, node: Node, kernel: Kernel, memory: ClientsMemory, clock: Clock) -> None:
    """In the node's own tick: what it was asked to forget, the oldest first."""
    waiting = Clearing.objects.filter(node=node, state=ClearingState.QUEUED).select_related("requested_by")
    for row in waiting.order_by("requested_at"):
        try:
            forgotten, error = _forget(row, node=node, kernel=kernel), ""
        except Busy as busy:
            logger.info("%s waits: %s", row, busy)
            return
        except KernelError as failure:
            forgotten, error = None, str(failure)
        except Exception as failure:
            # Whatever goes wrong in there, the row must not stop every tick to come.
            logger.exception("Clearing %s failed unexpectedly.", row.pk)
            forgotten, error = None, f"Unexpected {type(failure).__name__}: {failure}"
        memory.due = None
        _record(row, node=node, forgotten=forgotten, error=error, now=clock())


def refresh_clients(*, node: Node, kernel: Kernel, memory: ClientsMemory, clock: Clock) -> None:
    """Count if it is due and a live service has persistence, and keep what was seen, or why nothing was.

    Sets that became crowded get more room: else whoever found none would not be remembered.
    """
    now = clock()
    if memory.due is not None and now < memory.due:
        return
    memory.due = now + REPORT_EVERY
    if not keeps_clients(node.cluster):
        return
    try:
        found: dict[str, object] = {"counts": dict(sorted(kernel.count_clients().items()))}
    except KernelError as error:
        found = {"error": str(error)}
    Node.objects.filter(pk=node.pk).update(clients=found, clients_at=now)
    try:
        kernel.make_room()
    except KernelError as error:
        logger.warning("%s has crowded sets of clients, which got no more room: %s", node.name, error)


def keeps_clients(cluster: Cluster) -> bool:
    """Whether a live service of the cluster has persistence."""
    mode = str(PersistenceMode.SOURCE)
    return ServiceRow.objects.filter(cluster=cluster, enabled=True, persistence__mode=mode).exists()


def does_keep(service: Service | None) -> bool:
    """Whether the nodes remember the clients of this service."""
    return service is not None and service.enabled and service.persistence.mode is not PersistenceMode.NONE


def _require_operator(actor: Actor) -> User:
    require(actor=actor, permission=OPERATE)
    if actor is None:
        raise Refused("forbidden", "Clients are forgotten when a person asks for it, who answers for it.")
    return actor


def _require_kept(service: Service | None, *, name: str, endpoint: str) -> None:
    if service is None or not does_keep(service):
        raise Refused(
            "state", f"The service {name} has no persistence in what is live; nobody is remembered."
        )
    if endpoint and all(backend.endpoint != endpoint for backend in service.backends):
        raise Refused("invalid", f"The service {name} has no backend {endpoint} in what is live.")


def _queue(person: User, *, nodes: list[Node], service: str, endpoint: str) -> tuple[Clearing, ...]:
    request, now = uuid.uuid4(), timezone.now()
    return tuple(
        Clearing.objects.create(
            request=request,
            node=node,
            service_name=service,
            endpoint=endpoint,
            requested_by=person,
            requested_at=now,
        )
        for node in nodes
    )


def _forget(row: Clearing, *, node: Node, kernel: Kernel) -> int:
    """What is live now decides: a service that lost its persistence meanwhile has nobody to forget."""
    service = service_named(live_document(node.cluster), row.service_name)
    if service is None or not does_keep(service):
        return 0
    return kernel.forget_clients(service=service, endpoint=row.endpoint or None)


def _record(row: Clearing, *, node: Node, forgotten: int | None, error: str, now: datetime) -> None:
    with audit.writing():
        state = ClearingState.FAILED if error else ClearingState.DONE
        queued = Clearing.objects.filter(pk=row.pk, state=ClearingState.QUEUED)
        if not queued.update(state=state, forgotten=forgotten, error=error, finished_at=now):
            return
        facts = {
            "node": node.name,
            "service": row.service_name,
            "endpoint": row.endpoint,
            "asked_by": row.requested_by.get_username(),
            "request": str(row.request),
        }
        if error:
            audit.record(
                actor=None, action=Action.CLEARING_FAILED, target=node, facts=facts | {"error": error}
            )
            return
        words = f"{row.place}: {forgotten} client{'' if forgotten == 1 else 's'}"
        facts |= {"forgotten": forgotten, "words": words}
        audit.record(actor=None, action=Action.CLEARING_DONE, target=node, facts=facts)
