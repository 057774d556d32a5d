"""What the buttons of a change do: each translates a POST into one deed of the workflow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth import logout
from django.core import signing
from django.http import HttpRequest

from balancer.admin.site import actor_of
from balancer.admin.times import read_moment
from balancer.domain.merge import Side
from balancer.models import Change, Deployment
from balancer.workflow import (
    approvals,
    deployments,
    drafts,
    editing,
    emergencies,
    rehearsals,
    schedules,
    submissions,
)
from balancer.workflow.approvals import PASSWORD_FRESH
from balancer.workflow.errors import Refused
from balancer.workflow.identity import prove_password
from balancer.workflow.reviews import Shown

PASSWORD_AT = "lbadmin_password_at"
"""In the session: when the password was typed, in seconds since the epoch."""
PASSWORD_TRIES = "lbadmin_password_tries"
TRIES_MAX = 5
TYPED = ("reason", "text", "title", "description", "username", "starts_at", "ends_at", "emergency")
"""Fields whose text must not be lost when a deed is refused."""
_SALT = "lbadmin.shown"


@dataclass(frozen=True, slots=True)
class Deed:
    do: Callable[[HttpRequest, Change], Any]
    done: str


def sign_shown(shown: Shown) -> str:
    """What the page says beside the drafts, for its own form: it comes back as it was, or not at all."""
    return signing.dumps(shown.to_data(), salt=_SALT, compress=True)


def password_needed(request: HttpRequest) -> bool:
    """Whether an approval would ask for the password now."""
    at = password_at(request)
    return at is None or datetime.now(UTC) - at >= PASSWORD_FRESH


def _approve(request: HttpRequest, change: Change) -> Change:
    prove_typed(request)
    return approvals.approve_change(
        actor=actor_of(request),
        change=change,
        digest=request.POST.get("digest", ""),
        password_at=password_at(request),
        reason=request.POST.get("reason", ""),
        shown=_read_shown(request),
    )


def _declare_emergency(request: HttpRequest, change: Change) -> Deployment:
    prove_typed(request)
    return emergencies.apply_in_emergency(
        actor=actor_of(request),
        change=change,
        reason=_text(request, "emergency"),
        password_at=password_at(request),
    )


def prove_typed(request: HttpRequest) -> None:
    """Proves the password of the form, where one was typed; Refused("password") where it is wrong."""
    if not request.POST.get("password"):
        return
    try:
        at = prove_password(actor=actor_of(request), password=request.POST["password"])
    except Refused:
        tries = request.session.get(PASSWORD_TRIES, 0) + 1
        request.session[PASSWORD_TRIES] = tries
        if tries >= TRIES_MAX:
            logout(request)  # whoever sits there has to get past the front door again
        raise
    request.session[PASSWORD_AT] = at.timestamp()
    request.session[PASSWORD_TRIES] = 0


def password_at(request: HttpRequest) -> datetime | None:
    """When this person last proved their password in this session."""
    seconds = request.session.get(PASSWORD_AT)
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _read_shown(request: HttpRequest) -> Shown | None:
    try:
        data = signing.loads(request.POST.get("shown", ""), salt=_SALT)
    except signing.BadSignature:
        return None
    return Shown(
        warnings=tuple(data["warnings"]),
        stakes=tuple(data["stakes"]),
        rehearsals=tuple(data["rehearsals"]),
        read_at=data["read_at"],
    )


def _read_choices(request: HttpRequest) -> submissions.Choices:
    """`choice:web:backends[10.0.0.3:80].weight=mine` -> {"web": {"backends[…].weight": Side.MINE}}."""
    choices: dict[str, dict[str, Side]] = {}
    for key, value in request.POST.items():
        kind, _, rest = key.partition(":")
        name, _, path = rest.partition(":")
        if kind == "choice" and value in set(Side):
            choices.setdefault(name, {})[path] = Side(value)
    return choices


def _text(request: HttpRequest, name: str) -> str:
    return request.POST.get(name, "")


DEEDS: Mapping[str, Deed] = {
    "choose": Deed(
        lambda r, c: editing.choose_change(actor=actor_of(r), change=c),
        "From now on your edits go into this change.",
    ),
    "submit": Deed(
        lambda r, c: submissions.submit_change(actor=actor_of(r), change=c),
        "Submitted. Somebody else can review it now.",
    ),
    "rehearse": Deed(
        lambda r, c: rehearsals.request_rehearsal(actor=actor_of(r), change=c),
        "A node's worker rehearses it now; what it finds is shown below.",
    ),
    "withdraw": Deed(
        lambda r, c: submissions.withdraw_change(actor=actor_of(r), change=c),
        "Withdrawn. It is a draft again and can be edited; earlier votes no longer count.",
    ),
    "rebase": Deed(
        lambda r, c: submissions.rebase_change(actor=actor_of(r), change=c, choices=_read_choices(r)),
        "Up to date: the drafts start from what is live now, and nothing of either side was lost.",
    ),
    "approve": Deed(_approve, "Your approval is recorded."),
    "reject": Deed(
        lambda r, c: approvals.reject_change(
            actor=actor_of(r), change=c, digest=_text(r, "digest"), reason=_text(r, "reason")
        ),
        "Rejected. Its author can withdraw it, put it right and submit it again.",
    ),
    "request-changes": Deed(
        lambda r, c: approvals.request_changes(
            actor=actor_of(r), change=c, digest=_text(r, "digest"), reason=_text(r, "reason")
        ),
        "Sent back. Its author can edit it and submit it again.",
    ),
    "apply": Deed(
        lambda r, c: deployments.apply_change(actor=actor_of(r), change=c),
        "Applying. Every node reports below what it does.",
    ),
    "schedule": Deed(
        lambda r, c: schedules.schedule_change(
            actor=actor_of(r),
            change=c,
            starts_at=read_moment(_text(r, "starts_at")),
            ends_at=read_moment(_text(r, "ends_at")),
        ),
        "Scheduled. It begins by itself, and everything is asked again then.",
    ),
    "cancel-window": Deed(
        lambda r, c: schedules.cancel_window(actor=actor_of(r), change=c),
        "The window is cancelled. The change stays approved.",
    ),
    "emergency": Deed(
        _declare_emergency,
        "Applying as an emergency. Every node reports below what it does; a second person has to sign it.",
    ),
    "discard": Deed(
        lambda r, c: submissions.discard_change(actor=actor_of(r), change=c),
        "Discarded. It stays readable here.",
    ),
    "describe": Deed(
        lambda r, c: editing.describe_change(
            actor=actor_of(r), change=c, title=_text(r, "title"), description=_text(r, "description")
        ),
        "Title and description saved.",
    ),
    "drop-draft": Deed(
        lambda r, c: drafts.discard_draft(actor=actor_of(r), change=c, service_name=_text(r, "service_name")),
        "The draft was taken out of the change.",
    ),
    "comment": Deed(
        lambda r, c: editing.comment_on_change(actor=actor_of(r), change=c, text=_text(r, "text")),
        "Your comment is in the history of the change.",
    ),
    "invite": Deed(
        lambda r, c: editing.invite_person(actor=actor_of(r), change=c, username=_text(r, "username")),
        "Invited. What they edit makes them a contributor, who cannot approve this change.",
    ),
    "uninvite": Deed(
        lambda r, c: editing.uninvite_person(actor=actor_of(r), change=c, username=_text(r, "username")),
        "The invitation was taken back.",
    ),
}
