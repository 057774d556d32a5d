import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from balancer.models import Change
from balancer.workflow.approvals import approve_change, reject_change, request_changes
from balancer.workflow.deployments import apply_change
from balancer.workflow.emergencies import apply_in_emergency
from balancer.workflow.errors import Refused
from balancer.workflow.identity import prove_password
from balancer.workflow.rehearsals import request_rehearsal
from balancer.workflow.schedules import schedule_change
from balancer.workflow.submissions import discard_change, submit_change, withdraw_change

Options = dict[str, Any]


class Command(BaseCommand):
    help = (
        "Bring a change forward from the shell, as a person: the same deeds as in the console, with the same"
        " rules. Who approves types the password and names the digest of what they read."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("deed", choices=sorted(_DEEDS))
        parser.add_argument("change", type=int, metavar="ID", help="the number of the change")
        parser.add_argument("--as", dest="username", required=True, help="the account whose deed this is")
        parser.add_argument("--digest", default="", help="of the change as it was read, from its page")
        parser.add_argument("--reason", default="", help="why; the author reads it")
        parser.add_argument(
            "--from", dest="starts_at", default="", help="schedule: ISO time of the beginning"
        )
        parser.add_argument("--until", dest="ends_at", default="", help="schedule: ISO time of the end")
        parser.add_argument(
            "--password-stdin",
            action="store_true",
            help="read from stdin the password that approve and emergency need",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        actor = User.objects.filter(username=options["username"]).first()
        if actor is None:
            raise CommandError(f"There is no account named {options['username']!r}.")
        change = Change.objects.filter(pk=options["change"]).first()
        if change is None:
            raise CommandError(f"There is no change #{options['change']}.")
        try:
            _DEEDS[options["deed"]](actor, change, options)
        except Refused as refusal:
            raise CommandError(refusal.message) from refusal
        change.refresh_from_db()
        self.stdout.write(f"{change} is {change.state} now.")


def _prove(actor: User, options: Options) -> datetime | None:
    if not options["password_stdin"]:
        return None
    return prove_password(actor=actor, password=sys.stdin.readline().rstrip("\n"))


def _approve(actor: User, change: Change, options: Options) -> None:
    approve_change(
        actor=actor,
        change=change,
        digest=options["digest"],
        password_at=_prove(actor, options),
        reason=options["reason"],
    )


def _declare_emergency(actor: User, change: Change, options: Options) -> None:
    apply_in_emergency(
        actor=actor, change=change, reason=options["reason"], password_at=_prove(actor, options)
    )


def _moment(text: str) -> datetime | None:
    """In the console's time zone where it names none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if timezone.is_aware(found) else timezone.make_aware(found)


_DEEDS: Mapping[str, Callable[[User, Change, Options], Any]] = {
    "emergency": _declare_emergency,
    "submit": lambda actor, change, _: submit_change(actor=actor, change=change),
    "rehearse": lambda actor, change, _: request_rehearsal(actor=actor, change=change),
    "withdraw": lambda actor, change, _: withdraw_change(actor=actor, change=change),
    "approve": _approve,
    "reject": lambda actor, change, o: reject_change(
        actor=actor, change=change, digest=o["digest"], reason=o["reason"]
    ),
    "request-changes": lambda actor, change, o: request_changes(
        actor=actor, change=change, digest=o["digest"], reason=o["reason"]
    ),
    "apply": lambda actor, change, _: apply_change(actor=actor, change=change),
    "schedule": lambda actor, change, o: schedule_change(
        actor=actor, change=change, starts_at=_moment(o["starts_at"]), ends_at=_moment(o["ends_at"])
    ),
    "discard": lambda actor, change, _: discard_change(actor=actor, change=change),
}
