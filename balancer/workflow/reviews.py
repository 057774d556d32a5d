"""What a reviewer is shown, kept for ever: one row for each content, named by vote and audit event."""

from dataclasses import asdict, dataclass
from typing import Any

from django.utils import timezone

from balancer.domain.diff import diff_services
from balancer.domain.digests import digest_review
from balancer.domain.problem import warnings
from balancer.domain.types import Service
from balancer.models import Change, Draft, Review
from balancer.workflow.changes import approvals_required, rules_of
from balancer.workflow.documents import candidate_of
from balancer.workflow.rehearsed import show_rehearsals
from balancer.workflow.stakes import Stake, advice_for, stakes_of
from balancer.workflow.traffic import service_value, share_rows

NO_BACKEND = "no-backend"
"""The code of a Problem, and of an Advice that says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a page said that is not in the drafts and moves by itself. JSON data throughout."""

    warnings: tuple[str, ...] = ()
    stakes: tuple[dict[str, Any], ...] = ()
    """Connections at stake, see `workflow.stakes`."""
    rehearsals: tuple[dict[str, Any], ...] = ()
    """What was found when it was rehearsed, see `rehearsed.show_rehearsals`."""
    read_at: str = ""
    """When the page was made, ISO 8601."""

    def to_data(self) -> dict[str, Any]:
        return {
            "warnings": list(self.warnings),
            "stakes": list(self.stakes),
            "rehearsals": list(self.rehearsals),
            "read_at": self.read_at,
        }


def show_now(change: Change) -> Shown:
    """What a page of the change says at this moment beside its drafts."""
    before, after = touched_services(change)
    candidate = candidate_of(change)
    advice = advice_for(cluster=change.cluster, before=before, after=after)
    told = {item.service for item in advice if item.code == NO_BACKEND}
    # A service that loses its last backend is told so in stronger words.
    plain = [
        problem.message
        for problem in warnings(candidate.problems)
        if problem.code != NO_BACKEND or candidate.name_at(problem.path) not in told
    ]
    return Shown(
        warnings=(*plain, *(item.message for item in advice)),
        stakes=tuple(
            _stake_data(stake) for stake in stakes_of(cluster=change.cluster, before=before, after=after)
        ),
        rehearsals=show_rehearsals(change),
        read_at=timezone.now().isoformat(),
    )


def touched_services(change: Change) -> tuple[dict[str, Service | None], dict[str, Service | None]]:
    """(before, after) of the services that the change touches, by name; None where there is none."""
    drafts = list(Draft.objects.filter(change=change).order_by("service_name"))
    return (
        {draft.service_name: service_value(draft.before) for draft in drafts},
        {draft.service_name: service_value(draft.after) for draft in drafts},
    )


def build_review(*, change: Change, shown: Shown) -> dict[str, Any]:
    """What is kept of a review, as JSON data.

    Keys: change, title, digest, policy, approvals_required, services, warnings, stakes, rehearsals (not in
    those of older versions), read_at. A service has name, action, before, after, fields (path, before,
    after), traffic (backend, before, after) and rules; shares are fractions as text, null where there is no
    such backend.
    """
    drafts = Draft.objects.filter(change=change).order_by("service_name")
    return {
        "change": change.pk,
        "title": change.title,
        "digest": change.digest,
        "policy": change.cluster.policy.to_data(),
        "approvals_required": approvals_required(change),
        "services": [_service_data(draft) for draft in drafts],
        **shown.to_data(),
    }


def keep_review(*, change: Change, shown: Shown | None) -> Review:
    """The row that holds what was shown; one that is there already serves again."""
    content = build_review(change=change, shown=shown or show_now(change))
    digest = digest_review(content)
    found, _ = Review.objects.get_or_create(
        digest=digest, defaults={"content": content, "change": change, "created_at": timezone.now()}
    )
    return found


def _stake_data(stake: Stake) -> dict[str, Any]:
    seen = stake.observed_at.isoformat() if stake.observed_at else None
    texts = {"protocol": str(stake.protocol), "fate": str(stake.fate), "observed_at": seen}
    return asdict(stake) | texts


def _service_data(draft: Draft) -> dict[str, Any]:
    before, after = service_value(draft.before), service_value(draft.after)
    rows = share_rows(before=before, after=after)
    return {
        "name": draft.service_name,
        "action": draft.action,
        "before": draft.before,
        "after": draft.after,
        "fields": [
            {"path": c.path, "before": c.before, "after": c.after} for c in diff_services(before, after)
        ],
        "traffic": [
            {"backend": row.endpoint, "before": _fraction(row.before), "after": _fraction(row.after)}
            for row in rows
        ],
        "rules": rules_of(draft.after),
    }


def _fraction(share: Any) -> str | None:
    return None if share is None else str(share)
