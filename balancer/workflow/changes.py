"""What the use cases of a change share: its lock, its states, its digest, and what it rests on."""

import json
from typing import Any

from django.utils import timezone

from balancer.domain.codec import digest_text, dump_document, parse_service
from balancer.domain.lifecycle import ChangeDeed, ChangeState, next_state, states_before
from balancer.domain.types import Document
from balancer.models import Change, Cluster, Draft
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from balancer.workflow.documents import Data, candidate_of, live_services
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, ROLL_BACK, Actor, require

APPROVALS_REQUIRED = 1


def lock_change(change: Change) -> Change:
    """The change as it is now, held until the end of the transaction."""
    return Change.objects.select_for_update(of=("self",), no_key=True).get(pk=change.pk)


def lock_cluster(cluster: Cluster) -> Cluster:
    """Taken before the lock on a change, never after it: otherwise two transactions could wait in a ring."""
    return Cluster.objects.select_for_update(of=("self",), no_key=True).get(pk=cluster.pk)


def advance(*, change: Change, deed: ChangeDeed, **fields: Any) -> None:
    """Put the change into the state that the deed leads to; Refused("state") where the table has none."""
    state = next_state(state=ChangeState(change.state), deed=deed)
    if state is None:
        possible = " or ".join(sorted(states_before(deed)))
        raise Refused(
            "state",
            f"{change} is {change.state}; {deed} is possible only while it is {possible}. Reload the page.",
        )
    for name, value in fields.items():
        setattr(change, name, value)
    change.state = state
    change.updated_at = timezone.now()
    change.save()


def require_drafter(*, actor: Actor, change: Change) -> None:
    """Editing, submitting and withdrawing: for a rollback, the right to roll back is what counts."""
    require(actor=actor, permission=ROLL_BACK if change.kind == Change.Kind.ROLLBACK else DRAFT)


def is_involved(*, actor: Actor, change: Change) -> bool:
    """Whether this person wrote any of it, now or ever; such a person can never approve it."""
    if actor is None:
        return True
    return change.author_id == actor.pk or change.contributors.filter(pk=actor.pk).exists()


def digest_change(change: Change) -> str:
    """What a reviewer sees, as one number.

    Covers each touched service before and after, the rules that are compiled for it on its own, and the
    policy. Services that the change does not touch are not in it: they may move without undoing a review.
    """
    drafts = Draft.objects.filter(change=change).order_by("service_name")
    seen = {
        "cluster": change.cluster.name,
        "kind": change.kind,
        "rollback_of": change.rollback_of.number if change.rollback_of else None,
        "approvals_required": APPROVALS_REQUIRED,
        "drafts": [_digested(draft) for draft in drafts],
    }
    return digest_text(json.dumps(seen, sort_keys=True))


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
            "stale", f"{' '.join(reasons)} Withdraw the change and update it to the live configuration."
        )


def _digested(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.service_name,
        "action": draft.action,
        "before": draft.before,
        "after": draft.after,
        "rules": _rules_of(draft.after),
    }


def _rules_of(data: Data | None) -> str:
    if data is None:
        return ""
    service, problems = parse_service(data)
    if service is None:
        raise Refused("invalid", f"The service {data.get('name')} is not valid: {problems[0]}")
    return render_ruleset(compile_document(Document(services=(service,)), family=service.family))


def _moved(draft: Draft, live: Data | None) -> str | None:
    if live == draft.before:
        return None
    if live is None:
        return f"The service {draft.service_name} was deleted since."
    if draft.before is None:
        return f"A service named {draft.service_name} was created since."
    return f"The service {draft.service_name} was modified since."


def _reaches_its_target(change: Change) -> bool:
    document = candidate_of(change).document
    assert change.rollback_of is not None
    return document is not None and dump_document(document) == change.rollback_of.document
