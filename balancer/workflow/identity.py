"""Proof that it is really them: the password, once more, before a deed that others rely on."""

from datetime import datetime

from django.contrib.auth import authenticate
from django.utils import timezone

from balancer.workflow.audit import Action, deed
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import Actor


@deed(Action.PASSWORD_PROVED)
def prove_password(*, actor: Actor, password: str) -> datetime:
    """When this person proved it, for `approve_change(password_at=…)`. Refused("password") where it is wrong.

    A right password changes nothing, so only a refusal is recorded.
    """
    if actor is None or authenticate(username=actor.get_username(), password=password) != actor:
        raise Refused("password", "That is not your password. Nothing was done; type it again.")
    return timezone.now()
