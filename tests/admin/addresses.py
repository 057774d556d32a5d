"""Every address of the console, from its own table of addresses: a new page cannot be forgotten in a test."""

from collections.abc import Iterator

from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.urls import URLPattern, URLResolver, reverse

from balancer.models import (
    AuditEvent,
    Change,
    Cluster,
    Deployment,
    Draft,
    Evidence,
    LateReview,
    Node,
    Override,
    Review,
    Revision,
    Service,
)

LEAVE = {"logout", "jsi18n", "autocomplete", "view_on_site"}
"""Not pages of the console: the way out, a catalogue of texts, and two that answer nothing here."""
_MODELS: dict[str, type[Model]] = {
    "auditevent": AuditEvent,
    "change": Change,
    "cluster": Cluster,
    "latereview": LateReview,
    "node": Node,
    "override": Override,
    "review": Review,
    "revision": Revision,
    "service": Service,
    "user": User,
    "group": Group,
}


_QUERIES = {
    "balancer_revision_compare": "?from={0}&to={0}",
    "balancer_service_bulk": "?id={0}",
    "balancer_service_input": "?name=web",
}


def names() -> list[str]:
    """The names of all addresses that have one."""
    return sorted({pattern.name for pattern in _patterns(admin.site.urls[0]) if pattern.name} - LEAVE)


def address_of(name: str) -> str:
    """An address of that name that leads to a row which is there."""
    if name == "app_list":
        return reverse("admin:app_list", args=["balancer"])
    if name.startswith(("balancer_", "auth_")):
        return _address_of_model(name)
    return reverse(f"admin:{name}")


def _address_of_model(name: str) -> str:
    model = name.split("_")[1]
    row = User.objects.order_by("pk").first() if model == "user" else _newest(_MODELS[model])
    assert row is not None
    special = {
        "balancer_service_preview": lambda: [_newest(Cluster).pk],
        "balancer_service_draft": lambda: [_editable_draft().pk],
        "balancer_change_do": lambda: [row.pk, "submit"],
        "balancer_change_progress": lambda: [_newest(Deployment).change_id],
        "balancer_cluster_lift_freeze": lambda: [row.pk, 1],
        "balancer_change_evidence": _newest_evidence,
        "balancer_revision_compare": lambda: [],
        "balancer_service_bulk": lambda: [],
        "balancer_service_input": lambda: [_newest(Cluster).pk],
        "balancer_service_editing": lambda: [],
        "balancer_service_import": lambda: [],
        "balancer_service_export": lambda: [],
        "balancer_service_leave_change": lambda: [_newest(Cluster).pk],
        "auth_user_delete": lambda: [User.objects.get(username="viewer").pk],
        "balancer_auditevent_export_csv": lambda: [],
        "balancer_auditevent_export_jsonl": lambda: [],
    }
    if name in special:
        query = _QUERIES.get(name, "").format(row.pk)
        return reverse(f"admin:{name}", args=special[name]()) + query
    without_row = name.endswith(("_changelist", "_add"))
    return reverse(f"admin:{name}", args=[] if without_row else [row.pk])


def _editable_draft() -> Draft:
    return Draft.objects.filter(change__kind="edit", change__state="draft").latest("pk")


def _newest_evidence() -> list[int]:
    deployment = Evidence.objects.latest("pk").deployment
    return [deployment.change_id, deployment.pk]


def _newest(model: type[Model]) -> Model:
    row = model._default_manager.order_by("-pk").first()
    assert row is not None, f"the tests have no {model.__name__}"
    return row


def _patterns(entries: list[URLPattern | URLResolver]) -> Iterator[URLPattern]:
    for entry in entries:
        if isinstance(entry, URLResolver):
            yield from _patterns(entry.url_patterns)
        else:
            yield entry
