"""Several services at once: one field of many, or a whole document. All become drafts, or none."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from balancer.domain.codec import document_to_data, load_document
from balancer.domain.merge import endpoint_of
from balancer.domain.problem import Problem, errors
from balancer.models import Change, Cluster
from balancer.workflow.audit import Action, deed
from balancer.workflow.documents import Data, drafts_of, live_services
from balancer.workflow.drafts import propose
from balancer.workflow.editing import find_current_change
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, Actor, require

FIELDS: Mapping[str, str] = {
    "enabled": "Enabled",
    "critical": "Critical",
    "interface": "Interface",
    "scheduler": "Scheduler",
    "source_nat.mode": "Source address",
    "access.drop_invalid": "Drop invalid packets",
    "description": "Description",
    "backends.state": "State of one backend",
    "backends.weight": "Weight of one backend",
}
"""Fields that can be set on several services at once, with their names."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """What became of an edit of several services."""

    change: Change | None
    names: tuple[str, ...]
    """The services that the edit is about, sorted."""
    problems: tuple[Problem, ...]
    """With an error among them nothing was saved; paths name the service, `services[web].port`."""

    @property
    def saved(self) -> bool:
        return not errors(self.problems)


@deed(Action.DRAFT_SAVED, target="cluster")
def edit_services(
    *, actor: Actor, cluster: Cluster, names: tuple[str, ...], field: str, value: Any, backend: str = ""
) -> Proposed:
    """Give one field of several services a value, as drafts in this person's current change. Needs DRAFT.

    `field` is one of FIELDS; for `backends.…`, `backend` is the endpoint (`10.0.0.3:80`), and services
    without it stay as they are. Refused: "nothing", "conflict" (a service is gone), "invalid" (no such
    field).
    """
    require(actor=actor, permission=DRAFT)
    if field not in FIELDS:
        raise Refused(
            "invalid", f"{field[:60]!r} cannot be set on several services; choose a field of the list."
        )
    change = find_current_change(actor=actor, cluster=cluster)
    services = {**live_services(cluster), **(drafts_of(change) if change else {})}
    gone = [name for name in names if services.get(name) is None]
    if gone:
        raise Refused("conflict", f"There is no service named {gone[0]} any more. Reload the page.")
    wanted = {}
    for name in sorted(set(names)):
        edited = _with_value(services[name], field=field, value=value, backend=backend)
        if edited is not None:
            wanted[name] = edited
    if not wanted:
        raise Refused("nothing", _nothing(field=field, backend=backend, names=names))
    change, problems = propose(actor=actor, cluster=cluster, change=change, wanted=wanted)
    return Proposed(change=change, names=tuple(wanted), problems=problems)


@deed(Action.DRAFT_SAVED, target="cluster")
def import_document(*, actor: Actor, cluster: Cluster, text: str | bytes, replace: bool = False) -> Proposed:
    """Make drafts of a JSON document: what differs from what is proposed or live. Needs DRAFT.

    `replace`: services that the document does not name are to go. Otherwise they stay as they are.
    """
    require(actor=actor, permission=DRAFT)
    document, problems = load_document(text)
    if document is None:
        return Proposed(change=None, names=(), problems=problems)
    change = find_current_change(actor=actor, cluster=cluster)
    services = {**live_services(cluster), **(drafts_of(change) if change else {})}
    wanted: dict[str, Data | None] = {s["name"]: s for s in document_to_data(document)["services"]}
    if replace:
        wanted |= {name: None for name in services if name not in wanted}
    wanted = {name: after for name, after in wanted.items() if services.get(name) != after}
    if not wanted:
        raise Refused("nothing", "All of that is live or proposed already, so there is nothing to draft.")
    change, problems = propose(actor=actor, cluster=cluster, change=change, wanted=wanted)
    return Proposed(change=change, names=tuple(sorted(wanted)), problems=problems)


def _with_value(service: Data | None, *, field: str, value: Any, backend: str) -> Data | None:
    """The service with the value in it; None where it has no such backend."""
    edited = deepcopy(service)
    assert edited is not None
    head, _, rest = field.partition(".")
    if head == "backends":
        found = [one for one in edited["backends"] if endpoint_of(one) == backend]
        for one in found:
            one[rest] = value
        return edited if found else None
    if rest:
        edited[head] = {**edited[head], rest: value}
    else:
        edited[head] = value
    return edited


def _nothing(*, field: str, backend: str, names: tuple[str, ...]) -> str:
    if not names:
        return "Choose at least one service."
    return (
        f"None of these services has the backend {backend[:60]!r}; write it as address and port, 10.0.0.3:80."
    )
