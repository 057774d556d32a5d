"""What a change would do to the connections that nodes carry now, and what to know of the nodes."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from balancer.domain.advice import Advice, Machine, ServiceChange, advise
from balancer.domain.lifecycle import JobState
from balancer.domain.observation import Observation
from balancer.domain.types import Family, Protocol
from balancer.kernel.fates import Fate, Services, count_fates
from balancer.models import Cluster, Job, Node
from balancer.workflow.documents import live_document
from balancer.workflow.observations import observation_of
from balancer.workflow.presence import is_absent

OUTDATED_AFTER = timedelta(minutes=3)
"""Three looks at the usual pace."""
OUTDATED_FACTOR = 180
"""And of three looks that are so slow that the worker rests in between, see `workflow.observations`."""
RECENT = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """The connections of one backend of a touched service on one node, and what becomes of them.

    Connection tracking does not tell the interface on which a client is: what two services on different
    interfaces could own is counted for both.
    """

    service: str
    backend: str
    """Its endpoint. Empty: UDP clients that talk to the machine itself, from before the service was there."""
    node: str
    protocol: Protocol
    fate: Fate
    count: int | None
    """Established TCP connections, or UDP flows. None where nobody knows, which is not zero."""
    observed_at: datetime | None
    """When the node was last looked at; None for never."""
    why_unknown: str
    """One sentence; empty where `count` is known."""


def stakes_of(*, cluster: Cluster, before: Services, after: Services) -> tuple[Stake, ...]:
    """Of the services in `before` or `after`, which are the touched ones, on every node that takes part.

    A backend that a service has now is listed even where it has no connection, another one only where it has
    some. Sorted by service, backend, node and fate.
    """
    others = [s for s in live_document(cluster).services if s.name not in before and s.name not in after]
    now = timezone.now()
    found: list[Stake] = []
    for node in _nodes_of(cluster):
        why_unknown = _why_unknown(node, now=now)
        seen = None if why_unknown else observation_of(node)
        groups = count_fates(
            before=before,
            after=after,
            others=others,
            seen=seen,
            local_addresses=frozenset(found.ip for _, found in _interfaces(node)),
        )
        found += [
            Stake(
                service=group.service,
                backend=group.backend,
                node=node.name,
                protocol=group.protocol,
                fate=group.fate,
                count=None if seen is None else count,
                observed_at=node.observed_at,
                why_unknown=why_unknown,
            )
            for group, count in groups.items()
        ]
    return tuple(sorted(found, key=lambda stake: (stake.service, stake.backend, stake.node, stake.fate)))


def advice_for(*, cluster: Cluster, before: Services, after: Services) -> tuple[Advice, ...]:
    """What `domain.advice` says about these services and the nodes that take part, as they were last seen."""
    names = sorted({*before, *after})
    commits = _recent_commits(cluster)
    return advise(
        changes=[ServiceChange(name=name, before=before.get(name), after=after.get(name)) for name in names],
        machines=[_machine(node, commits=commits[node.pk]) for node in _nodes_of(cluster)],
        management_ports=settings.LBADMIN_MANAGEMENT_PORTS,
    )


def _nodes_of(cluster: Cluster) -> list[Node]:
    """Those that a deployment goes to."""
    return list(cluster.nodes.filter(enabled=True).order_by("name"))


def _why_unknown(node: Node, *, now: datetime) -> str:
    if node.observed_at is None:
        return f"{node.name} has not told yet what it carries; its worker does so when it starts."
    if "error" in node.observation:
        return f"{node.name} could not be looked at: {node.observation['error']}"
    seen = observation_of(node)
    if seen is None:
        return f"What {node.name} told is of another version of lbadmin; its worker will tell again soon."
    outdated = max(OUTDATED_AFTER, timedelta(milliseconds=seen.duration_ms) * OUTDATED_FACTOR)
    if is_absent(node=node, now=now) or now - node.observed_at > outdated:
        return f"The worker of {node.name} is silent; what its connections are now is not known."
    return ""


def _machine(node: Node, *, commits: int) -> Machine:
    seen = observation_of(node) or Observation()
    return Machine(
        name=node.name,
        flavour=node.facts.get("flavour", ""),
        addresses=tuple((name, found.ip) for name, found in _interfaces(node)),
        networks=tuple((name, found.network) for name, found in _interfaces(node)),
        listeners=seen.listeners,
        inputs=seen.inputs,
        recent_commits=commits,
    )


def _interfaces(node: Node) -> list[tuple[str, IPv4Interface | IPv6Interface]]:
    return [
        (interface["name"], ip_interface(text))
        for interface in node.facts.get("interfaces", ())
        for text in interface["addresses"]
    ]


def _recent_commits(cluster: Cluster) -> Counter[int]:
    """Node -> jobs of the last 24 hours that wrote something."""
    wrote = Q()
    for family in Family:
        wrote |= Q(**{f"receipt__{family.value}__changed": True})
    since = timezone.now() - RECENT
    jobs = Job.objects.filter(wrote, node__cluster=cluster, state=JobState.SUCCEEDED, finished_at__gte=since)
    return Counter(jobs.order_by().values_list("node", flat=True))
