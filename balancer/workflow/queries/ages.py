"""How old something is, in words."""

from datetime import datetime, timedelta


def describe_age(age: timedelta) -> str:
    """`3 s`, `5 min`, `2 h`, `4 days`."""
    seconds = max(0, int(age.total_seconds()))
    for size, limit, unit in ((1, 120, "s"), (60, 7200, "min"), (3600, 172_800, "h")):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400} days"


def as_of(moment: datetime, *, now: datetime) -> str:
    """`as of 4 s ago`."""
    return f"as of {describe_age(now - moment)} ago"
