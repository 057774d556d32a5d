"""Editing: every edit is a draft in somebody's change; nothing here is live."""

import json
from dataclasses import dataclass, replace

from django.utils import timezone

from balancer.domain.codec import digest_text, parse_service, service_to_data
from balancer.domain.lifecycle import ChangeDeed, ChangeState
from balancer.domain.problem import Problem, Severity, errors
from balancer.models import Change, Cluster, Draft
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import advance, lock_change, require_drafter
from balancer.workflow.documents import Candidate, Data, drafts_of, live_services, overlay
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, Actor, require
from balancer.workflow.revisions import live_revision


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


@deed(Action.CHANGE_OPENED, target="cluster")
def open_change(*, actor: Actor, cluster: Cluster, title: str, description: str = "") -> Change:
    """A new, empty change of this author. Needs DRAFT."""
    require(actor=actor, permission=DRAFT)
    if actor is None:
        raise Refused("forbidden", "A change needs an author; the system proposes none.")
    now = timezone.now()
    change = Change.objects.create(
        cluster=cluster,
        title=title.strip()[:200] or "Changes",
        description=description,
        author=actor,
        base_revision=live_revision(cluster),
        created_at=now,
        updated_at=now,
    )
    audit.record(actor=actor, action=Action.CHANGE_OPENED, target=change, facts={"cluster": cluster.name})
    return change


def find_current_change(*, actor: Actor, cluster: Cluster) -> Change | None:
    """The author's newest change in this cluster that is still a draft and an edit."""
    own = Change.objects.filter(author=actor, cluster=cluster, state=ChangeState.DRAFT, kind=Change.Kind.EDIT)
    return own.order_by("-pk").first()


def current_change(*, actor: Actor, cluster: Cluster) -> Change:
    """The change that the author's next edit goes into, opened where there is none. Needs DRAFT."""
    found = find_current_change(actor=actor, cluster=cluster)
    if found is not None:
        return found
    name = "" if actor is None else actor.get_username()
    return open_change(actor=actor, cluster=cluster, title=f"Changes by {name}")


@deed(Action.CHANGE_DESCRIBED, target="change")
def describe_change(*, actor: Actor, change: Change, title: str, description: str) -> Change:
    """Give a draft change its title and description. Needs DRAFT (ROLL_BACK for a rollback)."""
    change = lock_change(change)
    require_drafter(actor=actor, change=change)
    if not title.strip():
        raise Refused("reason", "A change needs a title.")
    advance(change=change, deed=ChangeDeed.EDIT, title=title.strip()[:200], description=description)
    audit.record(actor=actor, action=Action.CHANGE_DESCRIBED, target=change, facts={"title": change.title})
    return change


@deed(Action.DRAFT_SAVED, target="change")
def save_draft(
    *,
    actor: Actor,
    cluster: Cluster,
    data: Data,
    change: Change | None = None,
    original_name: str | None = None,
    seen: str | None = None,
) -> SavedDraft:
    """Propose a new service (`original_name` None), or another content or name for one that is there.

    `data` is a service of the document as JSON data. It goes into `change`, or into the author's current one.
    Invalid input saves nothing and comes back as problems. `seen` is the token of the service as the form
    showed it (`service_token`); where the service has changed since, Refused("conflict"). Needs DRAFT.
    """
    require(actor=actor, permission=DRAFT)
    change = _editable(cluster=cluster, change=change or find_current_change(actor=actor, cluster=cluster))
    live, drafts = live_services(cluster), drafts_of(change) if change else {}
    now = overlay(base=live, drafts=drafts)
    shown = {**live, **drafts}
    _require_seen(shown=shown, name=original_name, seen=seen)
    service, problems = parse_service(data)
    if service is None:
        return SavedDraft(change=change, draft=None, problems=problems)
    name = service.name
    if name != original_name and shown.get(name) is not None:
        taken = Problem("name", "taken", f"There is a service named {name} already; choose another name.")
        return SavedDraft(change=change, draft=None, problems=(taken,))
    proposed = drafts | {name: service_to_data(service)}
    if original_name not in (None, name):
        proposed[str(original_name)] = None
    problems = _own_problems(name=name, before=now, after=overlay(base=live, drafts=proposed))
    if errors(problems):
        return SavedDraft(change=change, draft=None, problems=problems)
    change = change or current_change(actor=actor, cluster=cluster)
    for touched in {name, original_name or name}:
        _write(actor=actor, change=change, name=touched, before=live.get(touched), after=proposed[touched])
    draft = Draft.objects.filter(change=change, service_name=name).first()
    return SavedDraft(change=change, draft=draft, problems=problems)


@deed(Action.DRAFT_SAVED, target="change")
def delete_service(*, actor: Actor, cluster: Cluster, name: str, change: Change | None = None) -> SavedDraft:
    """Propose that a service goes; one that is only a draft is simply dropped. Needs DRAFT."""
    require(actor=actor, permission=DRAFT)
    change = _editable(cluster=cluster, change=change or find_current_change(actor=actor, cluster=cluster))
    live, drafts = live_services(cluster), drafts_of(change) if change else {}
    if drafts.get(name, live.get(name)) is None:
        raise Refused("conflict", f"There is no service named {name} any more. Reload the page.")
    change = change or current_change(actor=actor, cluster=cluster)
    _write(actor=actor, change=change, name=name, before=live.get(name), after=None)
    draft = Draft.objects.filter(change=change, service_name=name).first()
    return SavedDraft(change=change, draft=draft, problems=())


@deed(Action.DRAFT_DISCARDED, target="change")
def discard_draft(*, actor: Actor, change: Change, service_name: str) -> None:
    """Take one draft out of a change. Needs DRAFT."""
    require(actor=actor, permission=DRAFT)
    change = _editable(cluster=change.cluster, change=change) or change
    if not Draft.objects.filter(change=change, service_name=service_name).exists():
        raise Refused(
            "conflict", f"There is no draft of {service_name} in {change} any more. Reload the page."
        )
    before = live_services(change.cluster).get(service_name)
    _write(actor=actor, change=change, name=service_name, before=before, after=before)


def service_token(data: Data | None) -> str:
    """Stands for the content of a service that a form shows, for `save_draft(seen=...)`."""
    return digest_text(json.dumps(data, sort_keys=True))


def write_drafts(
    *, actor: Actor, change: Change, live: dict[str, Data], wanted: dict[str, Data | None]
) -> None:
    """Make the change's drafts lead from `live` to `wanted` for the services named there."""
    for name, after in wanted.items():
        _write(actor=actor, change=change, name=name, before=live.get(name), after=after)


def _editable(*, cluster: Cluster, change: Change | None) -> Change | None:
    if change is None:
        return None
    change = lock_change(change)
    if change.cluster_id != cluster.pk:
        raise Refused("conflict", f"{change} belongs to the cluster {change.cluster}, not to {cluster}.")
    if change.kind == Change.Kind.ROLLBACK:
        raise Refused(
            "rollback",
            f"{change} brings back a revision as it was and cannot be edited. Discard it and edit.",
        )
    advance(change=change, deed=ChangeDeed.EDIT)
    return change


def _require_seen(*, shown: dict[str, Data | None], name: str | None, seen: str | None) -> None:
    if name is None:
        return
    if shown.get(name) is None:
        raise Refused("conflict", f"There is no service named {name} any more. Reload the page.")
    if seen is not None and seen != service_token(shown[name]):
        raise Refused(
            "conflict",
            f"The service {name} was changed while you were editing it. Reload the page and edit again.",
        )


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
