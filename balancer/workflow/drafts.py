"""Editing: every edit is a draft in somebody's change; nothing here is live."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count

from django.utils import timezone

from balancer.domain.codec import parse_service, service_to_data
from balancer.domain.problem import Problem, Severity, errors
from balancer.models import Change, Cluster, Draft
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import begin_edit, lock_change, require_drafter
from balancer.workflow.documents import Candidate, Data, drafts_of, live_document, live_services, overlay
from balancer.workflow.editing import current_change, find_current_change
from balancer.workflow.errors import Refused
from balancer.workflow.overtaken import require_seen
from balancer.workflow.permissions import DRAFT, Actor, require
from balancer.workflow.rehearsals import cancel_rehearsals

NAME_MAX = 63


@dataclass(frozen=True, slots=True)
class SavedDraft:
    """What became of an edit."""

    change: Change | None
    """None where nothing was saved and the author had no open change."""
    draft: Draft | None
    """None where nothing was saved (`problems` has errors), or where the edit equals what is live, so that
    nothing is left to propose."""
    problems: tuple[Problem, ...]
    """Paths are relative to the service (`backends[2].port`); empty where the whole is meant."""

    @property
    def saved(self) -> bool:
        return not errors(self.problems)


@deed(Action.DRAFT_SAVED, target="change")
def save_draft(
    *,
    actor: Actor,
    cluster: Cluster,
    data: Data,
    change: Change | None = None,
    original_name: str | None = None,
    seen: Data | None = None,
) -> SavedDraft:
    """Propose a new service (`original_name` None), or another content or name for one that is there.

    `data` is a service of the document as JSON data. It goes into `change`, or into the author's current one.
    Invalid input saves nothing and comes back as problems. `seen` is the service as the form showed it; where
    somebody has changed it since, `Overtaken` says who, and what both edits make together. Needs DRAFT, and
    an invitation to somebody else's change.
    """
    change, live, drafts = _open_desk(actor=actor, cluster=cluster, change=change)
    base = live_document(cluster)
    shown = {**live, **drafts}
    service, problems = parse_service(data)
    if service is None:
        return SavedDraft(change=change, draft=None, problems=problems)
    name, mine = service.name, service_to_data(service)
    if original_name is not None:
        require_seen(
            change=change,
            cluster=cluster,
            now=shown.get(original_name),
            name=original_name,
            seen=seen,
            mine=mine,
        )
    if name != original_name and shown.get(name) is not None:
        taken = Problem("name", "taken", f"There is a service named {name} already; choose another name.")
        return SavedDraft(change=change, draft=None, problems=(taken,))
    touched: dict[str, Data | None] = {name: mine}
    if original_name not in (None, name):
        touched[str(original_name)] = None
    problems = _own_problems(
        name=name, before=overlay(base=base, drafts=drafts), after=overlay(base=base, drafts=drafts | touched)
    )
    if errors(problems):
        return SavedDraft(change=change, draft=None, problems=problems)
    change = change or current_change(actor=actor, cluster=cluster)
    write_drafts(actor=actor, change=change, live=live, wanted=touched)
    draft = Draft.objects.filter(change=change, service_name=name).first()
    return SavedDraft(change=change, draft=draft, problems=problems)


@deed(Action.DRAFT_SAVED, target="change")
def delete_service(*, actor: Actor, cluster: Cluster, name: str, change: Change | None = None) -> SavedDraft:
    """Propose that a service goes; one that is only a draft is simply dropped. Needs DRAFT."""
    change, live, drafts = _open_desk(actor=actor, cluster=cluster, change=change)
    if drafts.get(name, live.get(name)) is None:
        raise Refused("conflict", f"There is no service named {name} any more. Reload the page.")
    change = change or current_change(actor=actor, cluster=cluster)
    write_drafts(actor=actor, change=change, live=live, wanted={name: None})
    draft = Draft.objects.filter(change=change, service_name=name).first()
    return SavedDraft(change=change, draft=draft, problems=())


@deed(Action.DRAFT_DISCARDED, target="change")
def discard_draft(*, actor: Actor, change: Change, service_name: str) -> None:
    """Take one draft out of a change. Needs DRAFT."""
    require(actor=actor, permission=DRAFT)
    change = require_editable(actor=actor, cluster=change.cluster, change=change)
    if not Draft.objects.filter(change=change, service_name=service_name).exists():
        raise Refused(
            "conflict", f"There is no draft of {service_name} in {change} any more. Reload the page."
        )
    _write(actor=actor, change=change, name=service_name, before=None, after=None)


def propose(
    *, actor: Actor, cluster: Cluster, change: Change | None, wanted: Mapping[str, Data | None]
) -> tuple[Change | None, tuple[Problem, ...]]:
    """Several services at once, as one deed: all of them become drafts, or none and the problems say why.

    Problems are those of `problems_together`. The caller is a deed with the right to draft.
    """
    change, live, drafts = _open_desk(actor=actor, cluster=cluster, change=change)
    problems = problems_together(cluster=cluster, drafts=drafts, wanted=wanted)
    if errors(problems):
        return change, problems
    change = change or current_change(actor=actor, cluster=cluster)
    write_drafts(actor=actor, change=change, live=live, wanted=wanted)
    return change, problems


def problems_together(
    *, cluster: Cluster, drafts: Mapping[str, Data | None], wanted: Mapping[str, Data | None]
) -> tuple[Problem, ...]:
    """What is wrong with the document that would come of it; paths name services, `services[web].port`."""
    candidate = overlay(base=live_document(cluster), drafts={**drafts, **wanted})
    return tuple(_named(problem, candidate) for problem in candidate.problems)


def free_name(name: str, *, cluster: Cluster, change: Change | None) -> str:
    """A name for a copy: `web-copy`, `web-copy-2`, …, that nothing live and no draft of the change has."""
    taken = {*live_services(cluster), *(drafts_of(change) if change else ())}
    ends = (f"-copy-{number}" if number > 1 else "-copy" for number in count(1))
    names = (f"{name[: NAME_MAX - len(end)]}{end}" for end in ends)
    return next(found for found in names if found not in taken)


def write_drafts(
    *, actor: Actor, change: Change, live: dict[str, Data], wanted: Mapping[str, Data | None]
) -> None:
    """Make the change's drafts lead to `wanted` for the services named there.

    A draft that is there already goes on from what it started from, though something else be live by now: it
    is the rebase that brings both together, and a save must not undo in passing what others made live.
    """
    bases = {**live, **dict(Draft.objects.filter(change=change).values_list("service_name", "before"))}
    for name, after in sorted(wanted.items()):
        before = after if after == live.get(name) else bases.get(name)
        _write(actor=actor, change=change, name=name, before=before, after=after)


def write_as_live(*, actor: Actor, change: Change, live: dict[str, Data]) -> None:
    """A draft of every service as it is: what is new is what is compiled from them."""
    if actor is not None:
        change.contributors.add(actor)
    for name, data in sorted(live.items()):
        Draft.objects.create(
            change=change,
            service_name=name,
            action=Draft.Action.MODIFY,
            before=data,
            after=data,
            updated_by=actor or change.author,
            updated_at=timezone.now(),
            version=1,
        )
    facts = {"services": sorted(live), "action": "compile anew"}
    audit.record(actor=actor, action=Action.DRAFT_SAVED, target=change, facts=facts)


def rebase_drafts(
    *, actor: Actor, change: Change, live: dict[str, Data], wanted: Mapping[str, Data | None]
) -> None:
    """Make the change's drafts lead from what is live now to `wanted`."""
    for name, after in sorted(wanted.items()):
        _write(actor=actor, change=change, name=name, before=live.get(name), after=after)


def require_editable(*, actor: Actor, cluster: Cluster, change: Change) -> Change:
    """The change, locked and in the state in which it is edited."""
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    if change.cluster_id != cluster.pk:
        raise Refused("conflict", f"{change} belongs to the cluster {change.cluster}, not to {cluster}.")
    if change.kind == Change.Kind.ROLLBACK:
        raise Refused(
            "rollback",
            f"{change} brings back a revision as it was and cannot be edited. Discard it and edit.",
        )
    begin_edit(change)
    cancel_rehearsals(change=change, why="The change was edited.", actor=actor)
    return change


def _open_desk(
    *, actor: Actor, cluster: Cluster, change: Change | None
) -> tuple[Change | None, dict[str, Data], dict[str, Data | None]]:
    """The change to edit (None: one is still to be opened), what is live, and the drafts on top of it."""
    require(actor=actor, permission=DRAFT)
    change = change or find_current_change(actor=actor, cluster=cluster)
    if change is not None:
        change = require_editable(actor=actor, cluster=cluster, change=change)
    return change, live_services(cluster), drafts_of(change) if change else {}


def _own_problems(*, name: str, before: Candidate, after: Candidate) -> tuple[Problem, ...]:
    """The problems of this service, and the errors that its edit makes elsewhere."""
    prefix, known = f"{after.path_of(name)}.", {problem.message for problem in before.problems}
    found = []
    for problem in after.problems:
        if problem.path.startswith(prefix):
            found.append(replace(problem, path=problem.path.removeprefix(prefix)))
        elif problem.severity is Severity.ERROR and problem.message not in known:
            found.append(replace(problem, path=""))
    return tuple(found)


def _named(problem: Problem, candidate: Candidate) -> Problem:
    """The same with the name of the service in its path: `services[web].port`."""
    name = candidate.name_at(problem.path)
    _, dot, rest = problem.path.partition(".")
    return replace(problem, path=f"services[{name}]{dot}{rest}") if name else problem


def _write(*, actor: Actor, change: Change, name: str, before: Data | None, after: Data | None) -> None:
    """One draft from `before` to `after`; none where they are equal. Whoever writes becomes a contributor."""
    existing = Draft.objects.filter(change=change, service_name=name).first()
    if actor is not None:
        change.contributors.add(actor)
    if before == after:
        if existing is not None:
            existing.delete()
            audit.record(actor=actor, action=Action.DRAFT_DISCARDED, target=change, facts={"service": name})
        return
    draft = existing or Draft(change=change, service_name=name, version=0)
    draft.action = _action(before=before, after=after)
    draft.before, draft.after = before, after
    draft.updated_by, draft.updated_at = actor or change.author, timezone.now()
    draft.version += 1
    draft.save()
    facts = {"service": name, "action": draft.action, "before": before, "after": after}
    audit.record(actor=actor, action=Action.DRAFT_SAVED, target=change, facts=facts)


def _action(*, before: Data | None, after: Data | None) -> str:
    if before is None:
        return Draft.Action.CREATE
    return Draft.Action.DELETE if after is None else Draft.Action.MODIFY
