"""Rules of INPUT of the nodes, offered as a draft of access lists (`domain.input_equivalents`)."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime

from balancer.domain.codec import parse_service, service_to_data
from balancer.domain.input_equivalents import Equivalent, find_equivalent
from balancer.domain.problem import errors
from balancer.domain.types import Service
from balancer.models import Change, Cluster, Node
from balancer.workflow.audit import Action, deed
from balancer.workflow.documents import Data, drafts_of, live_services
from balancer.workflow.drafts import SavedDraft, save_draft
from balancer.workflow.editing import open_change
from balancer.workflow.errors import Refused
from balancer.workflow.observations import observation_of
from balancer.workflow.permissions import DRAFT, Actor, require


@dataclass(frozen=True, slots=True)
class Offer:
    """What the rules of one node would add to a service."""

    node: str
    seen_at: datetime | None
    """When its rules were read."""
    equivalent: Equivalent

    @property
    def token(self) -> str:
        """Of what would be added: what is saved is what was shown."""
        added = (sorted(map(str, self.equivalent.deny)), sorted(map(str, self.equivalent.allow)))
        return hashlib.sha256(repr(added).encode()).hexdigest()[:32]

    @property
    def is_empty(self) -> bool:
        """No rule of the node's INPUT is about the service."""
        return not (self.equivalent.said or self.equivalent.unsaid)


def offers_for(*, cluster: Cluster, service: Service) -> tuple[Offer, ...]:
    """One for each node that was looked at, in order of name."""
    found = []
    for node in Node.objects.filter(cluster=cluster).defer("clients", "facts").order_by("name"):
        seen = observation_of(node)
        if seen is not None:
            equivalent = find_equivalent(service=service, paths=seen.inputs)
            found.append(Offer(node.name, node.observed_at, equivalent))
    return tuple(found)


def service_shown(*, cluster: Cluster, name: str, change: Change | None) -> Service | None:
    """The service as the change proposes it, else as it is live; None where there is none."""
    data = _data_of(cluster=cluster, name=name, change=change)
    return parse_service(data)[0] if data is not None else None


@deed(Action.DRAFT_SAVED, target="cluster")
def draft_equivalent(
    *, actor: Actor, cluster: Cluster, name: str, node: str, token: str, change: Change | None
) -> SavedDraft:
    """Add to the service what a node's offer was seen to add (`token`): a draft in `change`, or in a new one.

    Needs DRAFT. Refused: "conflict" (the service, the node's rules or both are others now), "nothing",
    "invalid".
    """
    require(actor=actor, permission=DRAFT)
    data = _data_of(cluster=cluster, name=name, change=change)
    service = service_shown(cluster=cluster, name=name, change=change)
    if service is None or data is None:
        raise Refused("conflict", f"There is no service named {name} any more. Reload the page.")
    offer = next((o for o in offers_for(cluster=cluster, service=service) if o.node == node), None)
    if offer is None or offer.token != token:
        raise Refused("conflict", "What would be added is not what you saw any more. Look at it again.")
    if not offer.equivalent.adds:
        raise Refused(
            "nothing", f"The access lists of {name} say that already, so there is nothing to draft."
        )
    wanted = replace(service, access=offer.equivalent.add_to(service.access))
    title = f"Rules of INPUT on {node} for {name}"
    change = change or open_change(actor=actor, cluster=cluster, title=title)
    saved = save_draft(
        actor=actor,
        cluster=cluster,
        change=change,
        data={**data, "access": service_to_data(wanted)["access"]},
        original_name=name,
        seen=data,
    )
    if not saved.saved:
        raise Refused("invalid", " ".join(problem.message for problem in errors(saved.problems)))
    return saved


def _data_of(*, cluster: Cluster, name: str, change: Change | None) -> Data | None:
    return {**live_services(cluster), **(drafts_of(change) if change else {})}.get(name)
