"""Backends that drain, and who is still with them: counted down node by node until they are empty."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from balancer.domain.overrides import service_with_overrides
from balancer.domain.types import Protocol, Service
from balancer.models import Cluster, Node
from balancer.workflow.documents import live_document, service_named
from balancer.workflow.effective import effective_document, overrides_in_force
from balancer.workflow.leaving import Left, does_drain, draining_backends, left_on
from balancer.workflow.queries.ages import as_of
from balancer.workflow.revisions import live_revision

OUTDATED_AFTER = timedelta(seconds=60)
"""A count that is older does not say that a backend is empty."""
_WORDS = {Protocol.TCP: "connection", Protocol.UDP: "flow", Protocol.SCTP: "association"}


@dataclass(frozen=True, slots=True)
class LeavingOnNode:
    node: Node
    words: str
    """`14 connections left, 3 remembered clients (as of 5 s ago)`."""
    empty_since: datetime | None
    """None where somebody is still there, and where nobody knows."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A backend that drains, on the nodes that take part, or on the one that was asked about."""

    service: str
    endpoint: str
    nodes: tuple[LeavingOnNode, ...]

    @property
    def empty_since(self) -> datetime | None:
        """Since when it is empty on all of them."""
        found = [one.empty_since for one in self.nodes]
        known = [since for since in found if since is not None]
        return max(known) if known and len(known) == len(found) else None


def leaving_of_service(*, cluster: Cluster, name: str, now: datetime | None = None) -> tuple[Leaving, ...]:
    """The backends of a live service that drain, on every node that takes part."""
    service = service_named(live_document(cluster), name) if does_drain(cluster) else None
    if service is None:
        return ()
    nodes = cluster.nodes.filter(enabled=True).defer("observation", "facts", "clients").order_by("name")
    return _view(service_with_overrides(service, overrides_in_force(cluster)), tuple(nodes), now=now)


def leaving_of_node(*, node: Node, now: datetime | None = None) -> tuple[Leaving, ...]:
    """The backends of all services that drain, on one node."""
    if not does_drain(node.cluster):
        return ()
    document = effective_document(node.cluster, live_revision(node.cluster))
    return tuple(one for service in document.services for one in _view(service, (node,), now=now))


def _view(service: Service, nodes: Iterable[Node], *, now: datetime | None) -> tuple[Leaving, ...]:
    nodes, now = tuple(nodes), now or timezone.now()
    return tuple(
        Leaving(
            service.name,
            backend.endpoint,
            tuple(_on_node(node, service, backend.endpoint, now=now) for node in nodes),
        )
        for backend in draining_backends(service)
    )


def _on_node(node: Node, service: Service, endpoint: str, *, now: datetime) -> LeavingOnNode:
    error, at = node.leaving.get("error", ""), node.leaving_at
    left = left_on(node, service=service.name, endpoint=endpoint)
    if error:
        return LeavingOnNode(node, f"could not count: {error}", None)
    if left is None or at is None:
        return LeavingOnNode(node, "not counted yet; a node counts as soon as it carries the draining", None)
    words = f"{_describe(left, service.protocol)} ({as_of(at, now=now)})"
    if now - at > OUTDATED_AFTER:
        return LeavingOnNode(node, f"{words}; what is left now is not known, as its worker is silent", None)
    since = datetime.fromisoformat(left.empty_since) if left.empty_since else None
    return LeavingOnNode(node, words, since)


def _describe(left: Left, protocol: Protocol) -> str:
    found = [f"{_count(left.connections, _WORDS[protocol])} left"]
    if left.clients is not None:
        found.append(_count(left.clients, "remembered client"))
    return ", ".join(found)


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
