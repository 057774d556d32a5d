"""What the use cases of a change share: its lock, its states, its digest, and what it rests on."""

from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils import timezone

from balancer.domain.codec import document_to_data, dump_document, parse_service
from balancer.domain.digests import digest_proposal
from balancer.domain.lifecycle import CHANGE_EDITABLE, ChangeDeed, ChangeState, next_state, states_before
from balancer.domain.policy import ApprovalPolicy, is_critical
from balancer.domain.types import Document
from balancer.models import Change, Cluster, Draft, Revision, Vote
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from balancer.workflow.documents import Data, candidate_of, drafts_of, live_services
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import ADMINISTER, DRAFT, ROLL_BACK, Actor, may, require
from balancer.workflow.revisions import document_of


def lock_change(change: Change) -> Change:
    """The change as it is now, held until the end of the transaction."""
    return Change.objects.select_for_update(of=("self",), no_key=True).get(pk=change.pk)


def lock_cluster(cluster: Cluster) -> Cluster:
    """Taken before the lock on a change, never after it: otherwise two transactions could wait in a ring."""
    return Cluster.objects.select_for_update(of=("self",), no_key=True).get(pk=cluster.pk)


def advance(*, change: Change, deed: ChangeDeed, **fields: Any) -> None:
    """Put the change into the state that the deed leads to; Refused("state") where the table has none."""
    state = require_possible(change=change, deed=deed)
    for name, value in fields.items():
        setattr(change, name, value)
    change.state = state
    change.updated_at = timezone.now()
    change.save()


def require_possible(*, change: Change, deed: ChangeDeed) -> ChangeState:
    """The state that the deed leads to; Refused("state") where the table has none."""
    state = next_state(state=ChangeState(change.state), deed=deed)
    if state is None:
        possible = " or ".join(sorted(states_before(deed)))
        raise Refused(
            "state",
            f"{change} is {change.state}; {deed} is possible only while it is {possible}. Reload the page.",
        )
    return state


def begin_edit(change: Change, **fields: Any) -> None:
    """Into the state in which drafts are edited; a change that was sent back loses its votes by that."""
    if change.state == ChangeState.CHANGES_REQUESTED:
        drop_votes(change)
        fields = {"digest": "", "submitted_at": None, **fields}
    advance(change=change, deed=ChangeDeed.EDIT, **fields)


def drop_votes(change: Change) -> int:
    """How many there were. What was seen and said stays in the audit history."""
    dropped, _ = Vote.objects.filter(change=change).delete()
    return dropped


def require_drafter(*, actor: Actor, change: Change, or_administrator: bool = False) -> None:
    """Editing, submitting and withdrawing: the right to draft (for a rollback: to roll back), and a part in
    this change. `or_administrator`: somebody has to clear up after an author who has left."""
    if or_administrator and may(actor=actor, permission=ADMINISTER):
        return
    require(actor=actor, permission=ROLL_BACK if change.kind == Change.Kind.ROLLBACK else DRAFT)
    if not takes_part(actor=actor, change=change):
        raise Refused(
            "not-invited",
            f"{change} is the work of {change.author.get_username()}. Ask for an invitation to it, or edit in"
            " a change of your own.",
        )


def takes_part(*, actor: Actor, change: Change) -> bool:
    """Whether this person may edit its drafts: its author, and whoever was invited."""
    if actor is None:
        return True
    return change.author_id == actor.pk or change.invited.filter(pk=actor.pk).exists()


def is_involved(*, actor: Actor, change: Change) -> bool:
    """Whether this person wrote any of it, now or ever; such a person can never approve it."""
    if actor is None:
        return True
    return change.author_id == actor.pk or change.contributors.filter(pk=actor.pk).exists()


def involved_people(change: Change) -> set[int]:
    """The keys of all accounts of which `is_involved` is true."""
    return {change.author_id, *change.contributors.values_list("pk", flat=True)}


def editable_changes(*, actor: User, cluster: Cluster | None = None) -> "QuerySet[Change]":
    """The changes into which this person could put an edit, the latest first; of all clusters, or of one."""
    found = Change.objects.filter(kind=Change.Kind.EDIT, state__in=CHANGE_EDITABLE)
    if cluster is not None:
        found = found.filter(cluster=cluster)
    return (found.filter(author=actor) | found.filter(invited=actor)).distinct().order_by("-pk")


def approvals_required(change: Change, *, policy: ApprovalPolicy | None = None) -> int:
    """By the policy of the cluster as it is now (given where the caller has just read it), and by what the
    change touches."""
    drafts = Draft.objects.filter(change=change).values_list("before", "after")
    critical = is_critical(side for sides in drafts for side in sides)
    return (policy or change.cluster.policy).required(critical=critical)


def digest_change(change: Change, *, policy: ApprovalPolicy | None = None) -> str:
    """What a reviewer sees, as one number; `policy` as in `approvals_required`.

    Covers each touched service before and after, the rules that are compiled for it on its own, and the
    policy. Services that the change does not touch are not in it: they may move without undoing a review.
    """
    drafts = Draft.objects.filter(change=change).order_by("service_name")
    return digest_proposal(
        cluster=change.cluster.name,
        kind=change.kind,
        rollback_of=change.rollback_of.number if change.rollback_of else None,
        rollback_services=change.rollback_services,
        policy=(policy or change.cluster.policy).to_data(),
        drafts=[_digested(draft) for draft in drafts],
    )


def stale_reasons(change: Change) -> tuple[str, ...]:
    """What has moved in the live configuration since the drafts were made, in sentences."""
    live = live_services(change.cluster)
    drafts = Draft.objects.filter(change=change).order_by("service_name")
    moved = [_moved(draft, live.get(draft.service_name)) for draft in drafts]
    reasons = [reason for reason in moved if reason]
    if not reasons and change.rollback_of is not None and not _reaches_its_target(change):
        reasons.append(
            f"Other services were changed since this rollback to {change.rollback_of} was prepared."
        )
    return tuple(reasons)


def require_current(change: Change) -> None:
    """Refused("stale") where the live configuration has moved under the drafts."""
    reasons = stale_reasons(change)
    if reasons:
        raise Refused(
            "stale", f"{' '.join(reasons)} Withdraw the change and bring it up to date with what is live."
        )


def rules_of(data: Data | None) -> str:
    """The rules that are compiled for a service on its own; Refused("invalid") where it is not valid."""
    if data is None:
        return ""
    service, problems = parse_service(data)
    if service is None:
        raise Refused("invalid", f"The service {data.get('name')} is not valid: {problems[0]}")
    return render_ruleset(compile_document(Document(services=(service,)), family=service.family))


def _digested(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.service_name,
        "action": draft.action,
        "before": draft.before,
        "after": draft.after,
        "rules": rules_of(draft.after),
    }


def _moved(draft: Draft, live: Data | None) -> str | None:
    if live == draft.before:
        return None
    if live is None:
        return f"The service {draft.service_name} was deleted since."
    if draft.before is None:
        return f"A service named {draft.service_name} was created since."
    return f"The service {draft.service_name} was modified since."


def rollback_target(
    *, revision: Revision, services: list[str] | None, live: dict[str, Data]
) -> dict[str, Data | None]:
    """Name -> what a rollback makes of the service, None where it goes; of all services, or of those named.

    Refused("invalid") where the revision cannot be read, or neither it nor what is live has such a service.
    """
    target = {service["name"]: service for service in document_to_data(document_of(revision))["services"]}
    if services is None:
        return {name: target.get(name) for name in sorted({*live, *target})}
    if not services:
        raise Refused("invalid", "Choose at least one service to bring back.")
    unknown = [name for name in services if name not in target and name not in live]
    if unknown:
        raise Refused(
            "invalid", f"Neither {revision} nor what is live has a service named {', '.join(unknown)}."
        )
    return {name: target.get(name) for name in services}


def _reaches_its_target(change: Change) -> bool:
    revision = change.rollback_of
    assert revision is not None
    if change.rollback_services is None:
        document = candidate_of(change).document
        return document is not None and dump_document(document) == revision.document
    live = live_services(change.cluster)
    target = rollback_target(revision=revision, services=change.rollback_services, live=live)
    drafts = drafts_of(change)
    return all(drafts.get(name, live.get(name)) == after for name, after in target.items())
