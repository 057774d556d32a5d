"""Several services at once: one field of many, or a whole document. All become drafts, or none.

`plan_…` says what a deed would do and writes nothing; the deed itself plans anew, in its own transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from balancer.domain.codec import document_to_data, load_document, parse_service, service_to_data
from balancer.domain.problem import Problem, errors
from balancer.models import Change, Cluster
from balancer.workflow.audit import Action, deed
from balancer.workflow.bulk_values import check_value, with_value
from balancer.workflow.documents import Data, drafts_of, live_services
from balancer.workflow.drafts import problems_together, propose
from balancer.workflow.editing import find_current_change
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, Actor, require

FIELDS: Mapping[str, str] = {
    "enabled": "Enabled",
    "critical": "Critical",
    "interface": "First interface",
    "additional_interfaces": "Further interfaces",
    "from_node": "From the node itself",
    "scheduler": "Scheduler",
    "slow_start": "Slow start",
    "persistence.mode": "Persistence",
    "persistence.timeout": "Timeout of persistence",
    "persistence.prefix": "Clients that stay together",
    "source_nat.mode": "Source address: masquerade or none",
    "source_nat.address": "Source address: an address or pool",
    "access.deny": "Deny list: add and take out",
    "access.allow": "Allow list: add and take out",
    "access.limits": "Limits of new and of open connections",
    "access.drop_invalid": "Drop invalid packets",
    "access.syn_proxy": "SYN proxy",
    "access.log_refused": "Log what is refused",
    "health": "Health checks",
    "description": "Description",
    "backends.state": "State of one backend",
    "backends.weight": "Weight of one backend",
    "backends.priority": "Priority of one backend",
}
"""Fields that can be set on several services at once, with their names. Some are edited and not replaced:
`bulk_values` says what their values look like."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What an edit of several services would do; nothing of it is written."""

    change: Change | None
    """The change that it would go into; None: one would be opened for it."""
    before: Mapping[str, Data | None]
    """What is proposed or live now, by name, of the services that would differ; None where there is none."""
    wanted: Mapping[str, Data | None]
    """What they would be; None where one is to go."""
    unchanged: int
    """Services that the edit names and that are like that already."""
    problems: tuple[Problem, ...]
    """With an error among them nothing can be saved. Paths name the service, `services[web].port`; those
    about a text that is no document count its services, `services[0].port`."""

    @property
    def possible(self) -> bool:
        return not errors(self.problems)


@dataclass(frozen=True, slots=True)
class Proposed:
    """What became of an edit of several services."""

    change: Change | None
    names: tuple[str, ...]
    """The services that the edit changes, sorted."""
    problems: tuple[Problem, ...]
    """As in `Planned`."""

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
    field). Problems of the value itself name its part: `add[2]`.
    """
    plan = plan_edit(actor=actor, cluster=cluster, names=names, field=field, value=value, backend=backend)
    return _propose(actor=actor, cluster=cluster, plan=plan)


@deed(Action.DRAFT_SAVED, target="cluster")
def import_document(*, actor: Actor, cluster: Cluster, text: str | bytes, replace: bool = False) -> Proposed:
    """Make drafts of a JSON document: what differs from what is proposed or live. Needs DRAFT.

    `replace`: services that the document does not name are to go. Otherwise they stay as they are.
    """
    plan = plan_import(actor=actor, cluster=cluster, text=text, replace=replace)
    return _propose(actor=actor, cluster=cluster, plan=plan)


def plan_edit(
    *, actor: Actor, cluster: Cluster, names: tuple[str, ...], field: str, value: Any, backend: str = ""
) -> Planned:
    """What `edit_services` would do, refusals included. Writes nothing."""
    require(actor=actor, permission=DRAFT)
    if field not in FIELDS:
        raise Refused(
            "invalid", f"{field[:60]!r} cannot be set on several services; choose a field of the list."
        )
    desk = _desk_of(actor=actor, cluster=cluster)
    shown = desk.shown
    gone = [name for name in names if shown.get(name) is None]
    if gone:
        raise Refused("conflict", f"There is no service named {gone[0]} any more. Reload the page.")
    chosen = {name: shown[name] for name in sorted(set(names))}
    if wrong := tuple(check_value(field, value, services=chosen.values())):
        return Planned(change=desk.change, before={}, wanted={}, unchanged=0, problems=wrong)
    edited = {}
    for name, service in chosen.items():
        after = with_value(service, field=field, value=value, backend=backend)
        if after is not None:
            edited[name] = _canonical(after)
    if not edited:
        raise Refused("nothing", _nothing(backend=backend, names=names))
    return _plan(desk, edited)


def plan_import(*, actor: Actor, cluster: Cluster, text: str | bytes, replace: bool = False) -> Planned:
    """What `import_document` would do, refusals included. Writes nothing."""
    require(actor=actor, permission=DRAFT)
    document, problems = load_document(text)
    desk = _desk_of(actor=actor, cluster=cluster)
    if document is None:
        return Planned(change=desk.change, before={}, wanted={}, unchanged=0, problems=problems)
    edited: dict[str, Data | None] = {s["name"]: s for s in document_to_data(document)["services"]}
    if replace:
        edited |= {name: None for name in desk.shown if name not in edited}
    return _plan(desk, edited)


@dataclass(frozen=True, slots=True)
class _Desk:
    cluster: Cluster
    change: Change | None
    live: dict[str, Data]
    drafts: dict[str, Data | None]

    @property
    def shown(self) -> dict[str, Data | None]:
        """The services as they are proposed in this person's change, or live."""
        return {**self.live, **self.drafts}


def _desk_of(*, actor: Actor, cluster: Cluster) -> _Desk:
    change = find_current_change(actor=actor, cluster=cluster)
    return _Desk(cluster, change, live_services(cluster), drafts_of(change) if change else {})


def _plan(desk: _Desk, edited: Mapping[str, Data | None]) -> Planned:
    """Refused("nothing") where everything is like that already."""
    shown = desk.shown
    wanted = {name: after for name, after in sorted(edited.items()) if shown.get(name) != after}
    if not wanted:
        raise Refused("nothing", "All of that is live or proposed already, so there is nothing to draft.")
    return Planned(
        change=desk.change,
        before={name: shown.get(name) for name in wanted},
        wanted=wanted,
        unchanged=len(edited) - len(wanted),
        problems=problems_together(cluster=desk.cluster, drafts=desk.drafts, wanted=wanted),
    )


def _propose(*, actor: Actor, cluster: Cluster, plan: Planned) -> Proposed:
    if not plan.possible:
        return Proposed(change=plan.change, names=tuple(plan.wanted), problems=plan.problems)
    change, problems = propose(actor=actor, cluster=cluster, change=plan.change, wanted=plan.wanted)
    return Proposed(change=change, names=tuple(plan.wanted), problems=problems)


def _canonical(data: Data) -> Data:
    """As it will be kept, so that what says the same is the same; as it is where it is not valid."""
    service, _ = parse_service(data)
    return data if service is None else service_to_data(service)


def _nothing(*, backend: str, names: tuple[str, ...]) -> str:
    if not names:
        return "Choose at least one service."
    return (
        f"None of these services has the backend {backend[:60]!r}; write it as address and port, 10.0.0.3:80."
    )
