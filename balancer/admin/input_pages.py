"""Rules of INPUT that no longer protect a published service, offered as a draft of its access lists."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from balancer.admin.editing_pages import refuse_drafting
from balancer.admin.site import actor_of, list_address, page_address, read_key
from balancer.domain.observation import Observation
from balancer.models import Change, Cluster, Node, Service
from balancer.workflow import editing
from balancer.workflow.changes import editable_changes
from balancer.workflow.errors import Refused
from balancer.workflow.input_drafts import Offer, draft_equivalent, offers_for, service_shown
from balancer.workflow.live import value_of_row
from balancer.workflow.permissions import DRAFT, may

NEW = "new"
CHANGES_OFFERED = 50
SERVICES_LOOKED_AT = 200
"""Of a cluster, for the page of a node."""


@dataclass(frozen=True, slots=True)
class OfferCard:
    """Nodes whose rules say the same."""

    nodes: tuple[str, ...]
    offer: Offer


class InputPages:
    """Mixed into the admin of services."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.input_view)
        return [path("input/<int:cluster_id>/", view, name="balancer_service_input"), *super().get_urls()]

    def input_view(self, request: HttpRequest, cluster_id: int) -> HttpResponse:
        """What the nodes' rules would add to a service; a POST adds what one of them was shown to."""
        cluster = Cluster.objects.filter(pk=cluster_id).first()
        if cluster is None or not may(actor=request.user, permission=DRAFT):
            return refuse_drafting(request)
        sent = request.POST if request.method == "POST" else request.GET
        name, wanted = sent.get("name", ""), sent.get("change", "")
        change = _chosen(request, cluster, wanted)
        if request.method == "POST":
            answer = _save(request, cluster=cluster, name=name, change=change)
            if answer is not None:
                return answer
        service = service_shown(cluster=cluster, name=name, change=change)
        if service is None:
            messages.error(request, "There is no such service, or it is to be deleted. Choose another one.")
            return HttpResponseRedirect(list_address(Service))
        offers = offers_for(cluster=cluster, service=service)
        row = Service.objects.filter(cluster=cluster, name=name).first()
        return self.render(
            request,
            "input.html",
            title=f"Rules of INPUT for {name}",
            crumbs=[(name, page_address(row) if row else ""), ("Rules of INPUT", "")],
            cluster=cluster,
            service=service,
            row=row,
            cards=_cards(offers),
            blind=[node for node in cluster.nodes.values_list("name", flat=True) if not _has(offers, node)],
            change=change,
            changes=editable_changes(actor=actor_of(request), cluster=cluster)[:CHANGES_OFFERED],
        )


def input_address(*, cluster_id: int, name: str, change: Change | None = None) -> str:
    query = {"name": name} | ({"change": change.pk} if change else {})
    return f"{reverse('admin:balancer_service_input', args=[cluster_id])}?{urlencode(query)}"


def services_dropped(*, node: Node, observed: Observation | None) -> list[tuple[str, str]]:
    """Live services that rules of the node's INPUT are about, with the addresses of their pages here."""
    rules = [rule for path_ in (observed.inputs if observed else ()) for rule in path_.rules if rule.drops]
    if not rules:
        return []
    rows = Service.objects.filter(cluster=node.cluster_id).prefetch_related("backends").order_by("name")
    return [
        (row.name, input_address(cluster_id=node.cluster_id, name=row.name))
        for row in rows[:SERVICES_LOOKED_AT]
        if (service := value_of_row(row)) is not None and any(rule.could_match(service) for rule in rules)
    ]


def _chosen(request: HttpRequest, cluster: Cluster, wanted: str) -> Change | None:
    """The change to draft in; None for a new one."""
    if wanted == NEW:
        return None
    mine = editable_changes(actor=actor_of(request), cluster=cluster)
    found = mine.filter(pk=read_key(wanted) or 0).first()
    return found or editing.find_current_change(actor=actor_of(request), cluster=cluster)


def _save(request: HttpRequest, *, cluster: Cluster, name: str, change: Change | None) -> HttpResponse | None:
    """The way to the change where the draft was saved; None where the page has to be shown again."""
    try:
        saved = draft_equivalent(
            actor=actor_of(request),
            cluster=cluster,
            name=name,
            node=request.POST.get("node", ""),
            token=request.POST.get("token", ""),
            change=change,
        )
    except Refused as refusal:
        messages.error(request, refusal.message)
        return None
    assert saved.change is not None
    messages.success(
        request,
        f"The access lists of {name} are drafted in change #{saved.change.pk}. Nothing is live yet: submit"
        " the change when it is complete.",
    )
    return HttpResponseRedirect(page_address(saved.change))


def _cards(offers: Iterable[Offer]) -> list[OfferCard]:
    found: dict[object, list[Offer]] = {}
    for offer in offers:
        found.setdefault(offer.equivalent, []).append(offer)
    return [OfferCard(tuple(one.node for one in same), same[0]) for same in found.values()]


def _has(offers: Iterable[Any], node: str) -> bool:
    return any(offer.node == node for offer in offers)
