"""The digests that approvals, revisions and reviews are known by. Their formulas never change."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from balancer.domain.codec import digest_text

Data = Mapping[str, Any]


def digest_proposal(
    *,
    cluster: str,
    kind: str,
    rollback_of: int | None,
    policy: Data,
    drafts: Sequence[Data],
    rollback_services: Sequence[str] | None = None,
) -> str:
    """What an approval is bound to: what a reviewer sees of a change, as one number.

    A draft is name, action, before, after and rules (those of `after`, compiled on its own).
    """
    kept = ("name", "action", "before", "after", "rules")
    seen = {
        "cluster": cluster,
        "kind": kind,
        "rollback_of": rollback_of,
        # Written only where it is there, so that no digest of before moves.
        **({} if rollback_services is None else {"rollback_services": list(rollback_services)}),
        "policy": policy,
        "drafts": [{key: draft[key] for key in kept} for draft in drafts],
    }
    return digest_text(json.dumps(seen, sort_keys=True))


def digest_revision(*, document: str, rulesets: Mapping[str, str]) -> str:
    """One number for the document's text and the text of every ruleset."""
    return digest_text(json.dumps({"document": document, "rulesets": dict(rulesets)}, sort_keys=True))


def join_digests(digests: Sequence[str]) -> str:
    """One for several; of one, itself."""
    return digests[0] if len(digests) == 1 else digest_text("\n".join(digests))


def digest_review(content: Data) -> str:
    """Of what a reviewer was shown."""
    return digest_text(json.dumps(content, sort_keys=True))
