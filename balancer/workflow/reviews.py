"""What a reviewer is shown, kept for ever: one row for each content, named by vote and audit event."""

import json
from dataclasses import dataclass
from typing import Any

from django.utils import timezone

from balancer.domain.codec import digest_text
from balancer.domain.diff import diff_services
from balancer.models import Change, Draft, Review
from balancer.workflow.changes import approvals_required, rules_of
from balancer.workflow.traffic import service_value, share_rows, shares_alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a page said that is not in the drafts and moves by itself. JSON data throughout."""

    warnings: tuple[str, ...] = ()
    stakes: tuple[dict[str, Any], ...] = ()
    """Connections at stake, see `queries.stakes`."""
    read_at: str = ""
    """When the page was made, ISO 8601; empty where it was put together at the vote itself."""

    def to_data(self) -> dict[str, Any]:
        return {"warnings": list(self.warnings), "stakes": list(self.stakes), "read_at": self.read_at}


def build_review(*, change: Change, shown: Shown) -> dict[str, Any]:
    """What is kept of a review, as JSON data.

    Keys: change, title, digest, policy, approvals_required, services, warnings, stakes, read_at. A service
    has name, action, before, after, fields (path, before, after), traffic (backend, before, after) and
    rules; shares are fractions as text, null where there is no such backend.
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
    content = build_review(change=change, shown=shown or Shown())
    digest = digest_text(json.dumps(content, sort_keys=True))
    found, _ = Review.objects.get_or_create(
        digest=digest, defaults={"content": content, "change": change, "created_at": timezone.now()}
    )
    return found


def _service_data(draft: Draft) -> dict[str, Any]:
    before, after = service_value(draft.before), service_value(draft.after)
    rows = share_rows(before=shares_alone(before), after=shares_alone(after))
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
