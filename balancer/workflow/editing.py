"""A change and the people in it: opened, chosen to edit in, described, commented on, shared."""

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils import timezone

from balancer.domain.lifecycle import CHANGE_OPEN
from balancer.models import Change, Cluster, EditedChange
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import begin_edit, editable_changes, lock_change, require_drafter
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, VIEW, Actor, may, require
from balancer.workflow.revisions import live_revision

COMMENT_MAX = 5000


@deed(Action.CHANGE_OPENED, target="cluster")
def open_change(*, actor: Actor, cluster: Cluster, title: str, description: str = "") -> Change:
    """A new, empty change of this author, who edits in it from now on. Needs DRAFT."""
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
    _edit_in(actor=actor, change=change)
    audit.record(actor=actor, action=Action.CHANGE_OPENED, target=change, facts={"cluster": cluster.name})
    return change


@deed(Action.CHANGE_CHOSEN, target="change")
def choose_change(*, actor: Actor, change: Change) -> Change:
    """From now on this person's edits go into this change, until another one is chosen. Needs DRAFT.

    Which change somebody edits in is no matter of history, so nothing is recorded but a refusal.
    """
    require(actor=actor, permission=DRAFT)
    if (
        actor is None
        or not editable_changes(actor=actor, cluster=change.cluster).filter(pk=change.pk).exists()
    ):
        raise Refused("state", f"{change} cannot be edited now, or not by you. Choose another one.")
    _edit_in(actor=actor, change=change)
    return change


def leave_change(*, actor: User, cluster: Cluster) -> None:
    """The next edit of this person opens a change of its own."""
    EditedChange.objects.filter(user=actor, cluster=cluster).delete()


def find_current_change(*, actor: Actor, cluster: Cluster) -> Change | None:
    """The change that this person has chosen to edit in, where it can still be edited."""
    return None if actor is None else chosen_changes(actor=actor).filter(cluster=cluster).first()


def chosen_changes(*, actor: User) -> "QuerySet[Change]":
    """What `find_current_change` finds, of all clusters at once: at most one change for each."""
    chosen = EditedChange.objects.filter(user=actor).values("change")
    return editable_changes(actor=actor).filter(pk__in=chosen)


def current_change(*, actor: Actor, cluster: Cluster) -> Change:
    """The change that this person's next edit goes into, opened where there is none. Needs DRAFT."""
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
    begin_edit(change, title=title.strip()[:200], description=description)
    audit.record(actor=actor, action=Action.CHANGE_DESCRIBED, target=change, facts={"title": change.title})
    return change


@deed(Action.CHANGE_COMMENTED, target="change")
def comment_on_change(*, actor: Actor, change: Change, text: str) -> None:
    """Say something about a change, open or closed; it stays in its history. Needs VIEW."""
    require(actor=actor, permission=VIEW)
    text = text.strip().replace("\r\n", "\n")
    if not text:
        raise Refused("reason", "The comment is empty.")
    if len(text) > COMMENT_MAX:
        raise Refused("invalid", f"A comment has at most {COMMENT_MAX} characters; this one has {len(text)}.")
    audit.record(actor=actor, action=Action.CHANGE_COMMENTED, target=change, facts={"text": text})


@deed(Action.CHANGE_INVITED, target="change")
def invite_person(*, actor: Actor, change: Change, username: str) -> Change:
    """Let somebody else edit the drafts of a change. For its author; the other one needs DRAFT.

    Whoever then edits becomes a contributor, and can never approve it.
    """
    change = lock_change(change)
    _require_author(actor=actor, change=change)
    person = User.objects.filter(username=username.strip(), is_active=True).first()
    if person is None:
        raise Refused("invalid", f"There is no active account named {username.strip()[:150]!r}.")
    if person.pk == change.author_id or change.invited.filter(pk=person.pk).exists():
        raise Refused("taken", f"{person.get_username()} takes part in {change} already.")
    if not may(actor=person, permission=DRAFT):
        raise Refused(
            "forbidden",
            f"{person.get_username()} may not draft changes; an administrator gives the role Editor.",
        )
    change.invited.add(person)
    facts = {"person": person.get_username(), "person_id": person.pk}
    audit.record(actor=actor, action=Action.CHANGE_INVITED, target=change, facts=facts)
    return change


@deed(Action.CHANGE_UNINVITED, target="change")
def uninvite_person(*, actor: Actor, change: Change, username: str) -> Change:
    """Take an invitation back; what the person edited stays, and that they did so. For its author."""
    change = lock_change(change)
    _require_author(actor=actor, change=change)
    person = change.invited.filter(username=username).first()
    if person is None:
        raise Refused("invalid", f"{username[:150]!r} is not invited to {change}.")
    change.invited.remove(person)
    EditedChange.objects.filter(user=person, change=change).delete()
    facts = {"person": person.get_username(), "person_id": person.pk}
    audit.record(actor=actor, action=Action.CHANGE_UNINVITED, target=change, facts=facts)
    return change


def _require_author(*, actor: Actor, change: Change) -> None:
    require_drafter(actor=actor, change=change)
    if actor is not None and actor.pk != change.author_id:
        raise Refused("forbidden", f"Only the author of {change} can invite others to it.")
    if change.state not in CHANGE_OPEN:
        raise Refused("state", f"{change} is {change.state}; there is nothing left to edit in it.")
    if change.kind == Change.Kind.ROLLBACK:
        raise Refused("rollback", f"{change} brings back a revision as it was; nobody edits it.")


def _edit_in(*, actor: User, change: Change) -> None:
    values = {"change": change}
    EditedChange.objects.update_or_create(user=actor, cluster=change.cluster, defaults=values)
