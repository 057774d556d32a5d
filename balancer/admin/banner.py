"""The line on every page that says into which change this person's edits go."""

from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from balancer.admin.site import count_rows
from balancer.models import Change, Draft
from balancer.workflow.editing import chosen_changes
from balancer.workflow.permissions import DRAFT, may


def add_banner(request: HttpRequest) -> dict[str, Any]:
    """A context processor: `editing` is the chosen change of each cluster, with its number of drafts.

    Asked for only by a template that shows it; one query then, and none for those who may not draft.
    """
    return {"editing": SimpleLazyObject(lambda: _chosen_by(getattr(request, "user", None)))}


def _chosen_by(user: Any) -> list[Change]:
    if not isinstance(user, User) or not may(actor=user, permission=DRAFT):
        return []
    found = chosen_changes(actor=user).select_related("cluster").annotate(size=count_rows(Draft, "change"))
    return list(found.order_by("cluster__name"))
