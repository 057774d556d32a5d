"""What was found when a change was rehearsed: what the card on its page polls."""

from dataclasses import dataclass
from typing import Any

from balancer.domain.lifecycle import CHANGE_REHEARSABLE, REHEARSAL_ACTIVE, ChangeState
from balancer.models import Change
from balancer.workflow.rehearsed import is_required, show_rehearsals, standing_of, wanted_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalsView:
    rehearsals: tuple[dict[str, Any], ...]
    """See `rehearsed.show_rehearsals`."""
    active: bool
    """Poll again while it is."""
    required: bool
    """By the policy, for a change that is still to be applied."""
    why_not: str
    """What the change lacks, whether or not the policy asks for it; empty where it has passed or is over."""
    unknown: tuple[str, ...]
    """Nodes on whose kind it was not rehearsed, as nobody knows it yet."""


def view_rehearsals(change: Change) -> RehearsalsView:
    rehearsals = show_rehearsals(change)
    ahead = ChangeState(change.state) in CHANGE_REHEARSABLE
    asked = ahead and (bool(rehearsals) or bool(change.digest))
    return RehearsalsView(
        rehearsals=rehearsals,
        active=any(one["state"] in REHEARSAL_ACTIVE for one in rehearsals),
        required=ahead and is_required(change.cluster),
        why_not=standing_of(change).why_not if asked else "",
        unknown=wanted_nodes(change.cluster).unknown if ahead else (),
    )
