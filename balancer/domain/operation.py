"""How approved changes are brought to the nodes of a cluster, and what operators may do there without one."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

CONFIRM_SECONDS_MIN, CONFIRM_SECONDS_MAX = 5, 3600
WEIGHT_PERCENT_MAX = 25_500
"""From the smallest weight to the largest."""
KEEP_MAX = 1024
DRILL_HOURS_MAX = 24 * 365


class Rehearse(StrEnum):
    REQUIRED = "required"
    OFF = "off"


class Confirm(StrEnum):
    AUTOMATIC = "automatic"
    """By the worker, when the checks after the commit hold."""
    MANUAL = "manual"
    """By a person."""
    BOTH = "both"
    """By the worker when the checks hold; where they do not, a person may still confirm in time."""


class Away(StrEnum):
    """What a node that is down does to a roll-out."""

    BLOCK = "block"
    SKIP = "skip"


class OnDrift(StrEnum):
    """What a node does when its kernel differs from what it should carry."""

    MEND = "mend"
    """It puts ours back at once."""
    ASK = "ask"
    """It waits until an operator says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationPolicy:
    rehearsal: Rehearse = Rehearse.REQUIRED
    confirm: Confirm = Confirm.AUTOMATIC
    confirm_seconds: int = 120
    """From just before the commit to the moment at which a node without a confirm goes back by itself."""
    away: Away = Away.BLOCK
    rollback_at_once: bool = False
    """An operator may go back to the previous revision without an approval."""
    override_weight_percent: int = 50
    """How far an operator may move a weight from the approved one, either way; 0: not at all."""
    override_keep: int = 1
    """Usable backends that an operator has to leave to a service."""
    drill_hours: int | None = None
    """Hours between two rollback drills of a node; None: only when somebody asks for one."""
    on_drift: OnDrift = OnDrift.MEND

    def to_data(self) -> dict[str, Any]:
        """JSON data, for the audit history."""
        return {name: str(value) if isinstance(value, StrEnum) else value
                for name, value in asdict(self).items()}  # fmt: skip


def describe_operation(policy: OperationPolicy) -> tuple[str, ...]:
    """In sentences."""
    return (
        _rehearsal(policy),
        _confirm(policy),
        "A node that is down holds a roll-out up."
        if policy.away is Away.BLOCK
        else "A node that is down is left out of a roll-out and catches up when it returns.",
        "An operator may go back to the previous revision at once."
        if policy.rollback_at_once
        else "Going back to an earlier revision takes the same approval as any change.",
        _overrides(policy),
        "Rollback drills run when somebody asks for one."
        if policy.drill_hours is None
        else f"A rollback drill runs on each node every {_count(policy.drill_hours, 'hour')}.",
        "A node whose rules somebody has changed puts them back at once."
        if policy.on_drift is OnDrift.MEND
        else "A node whose rules somebody has changed says so, and waits until an operator acts.",
    )


def _rehearsal(policy: OperationPolicy) -> str:
    if policy.rehearsal is Rehearse.OFF:
        return "A change may be approved without a rehearsal."
    return "A change can only be approved once its ruleset was rehearsed and passed."


def _confirm(policy: OperationPolicy) -> str:
    who = {
        Confirm.AUTOMATIC: "the worker's checks",
        Confirm.MANUAL: "people",
        Confirm.BOTH: "the worker's checks or people",
    }
    seconds = _count(policy.confirm_seconds, "second")
    return f"A node goes back by itself unless {who[policy.confirm]} confirm within {seconds}."


def _overrides(policy: OperationPolicy) -> str:
    keep = f"at least {_count(policy.override_keep, 'usable backend')}"
    if policy.override_weight_percent == 0:
        return f"Operators may take backends out as long as a service keeps {keep}; weights are not theirs."
    return (
        f"Operators may take backends out as long as a service keeps {keep}, and move a weight by up to"
        f" {policy.override_weight_percent} %."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
