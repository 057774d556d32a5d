"""Moments as people type and read them: in the time zone of the console, to the minute."""

from datetime import datetime, timedelta

from django.utils import timezone

_FORMAT = "%Y-%m-%dT%H:%M"
"""Of `input type="datetime-local"`."""


def read_moment(text: str) -> datetime | None:
    """None where that is no moment, or none that there is in the console's time zone."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found if timezone.is_aware(found) else timezone.make_aware(found)


def write_moment(moment: datetime) -> str:
    return timezone.localtime(moment).strftime(_FORMAT)


def next_hours() -> tuple[str, str]:
    """The beginning and the end of the next full hour, to begin a form with."""
    start = (timezone.now() + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    return write_moment(start), write_moment(start + timedelta(hours=1))
