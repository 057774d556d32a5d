"""What an approval needs in a cluster, and what a change makes of it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

APPROVALS_MAX = 9
EXPIRY_HOURS_MAX = 24 * 365


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalPolicy:
    approvals: int = 1
    """People other than those who wrote the change; 0: one person may do it all."""
    critical_approvals: int = 2
    """The same for a change that touches a critical service; never less than `approvals`."""
    groups: tuple[str, ...] = ()
    """Approvals count from members of these groups only, sorted; empty: from everyone who may approve."""
    expire_hours: int | None = None
    """An approval that is older does not count any more; None: it does for ever."""

    def required(self, *, critical: bool) -> int:
        return max(self.approvals, self.critical_approvals) if critical else self.approvals

    def has_expired(self, *, at: datetime, now: datetime) -> bool:
        return self.expire_hours is not None and now - at >= timedelta(hours=self.expire_hours)

    def to_data(self) -> dict[str, Any]:
        """JSON data, for digests and for the audit history."""
        return {**asdict(self), "groups": list(self.groups)}


def is_critical(services: Iterable[dict[str, Any] | None]) -> bool:
    """Whether one of these, given as JSON data before and after a change, is marked as critical.

    Before counts like after: taking the mark away is itself a change to a critical service.
    """
    return any(service is not None and service.get("critical", False) for service in services)


def describe_policy(policy: ApprovalPolicy) -> str:
    """In a sentence."""
    if policy.approvals == 0 and policy.critical_approvals == 0:
        return "No approval is needed: one person may do it all."
    plain = _count(policy.approvals)
    critical = _count(policy.required(critical=True))
    text = f"A change needs {plain}"
    if critical != plain:
        text += f", one to a critical service {critical}"
    if policy.groups:
        text += f", from {_either(policy.groups)}"
    if policy.expire_hours is not None:
        text += f"; an approval counts for {policy.expire_hours} hour{'s' if policy.expire_hours > 1 else ''}"
    return f"{text}."


def _count(number: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return f"{words[number] if number < len(words) else number} approval{'' if number < 2 else 's'}"


def _either(groups: tuple[str, ...]) -> str:
    *rest, last = groups
    return f"members of {', '.join(rest)} or {last}" if rest else f"members of {last}"
