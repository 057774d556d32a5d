"""Remembered clients: the card of a service with persistence, and the page that asks before they go."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from balancer.admin import chips
from balancer.admin.site import actor_of, page_address, perform
from balancer.domain.lifecycle import ClearingState
from balancer.models import Clearing, Node, Service
from balancer.workflow import queries
from balancer.workflow.permissions import OPERATE, may
from balancer.workflow.persistence import clear_persistence

_CHIPS = {
    ClearingState.QUEUED: ("On its way", "info", "schedule"),
    ClearingState.DONE: ("Done", "ok", "check_circle"),
    ClearingState.FAILED: ("Failed", "bad", "error"),
}


class ClearingPages:
    """Mixed into the admin of services."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [path("<int:service_id>/clear/", site(self.clear_view), name="balancer_service_clear")]
        return own + super().get_urls()

    def clear_view(self, request: HttpRequest, service_id: int) -> HttpResponse:
        """What would be forgotten, and a button; a POST is a press of it. `endpoint` means one backend."""
        row = self.find(request, str(service_id))
        if row is None:
            return self.answer_missing(request, str(service_id))
        endpoint = (request.POST if request.method == "POST" else request.GET).get("endpoint", "")
        if request.method == "POST":
            return perform(
                request,
                lambda: clear_persistence(
                    actor=actor_of(request), cluster=row.cluster, service=row.name, endpoint=endpoint
                ),
                done="The nodes forget them within seconds; what became of it is shown here.",
                then=page_address(row),
            )
        return self._ask(request, row, endpoint)

    def _ask(self, request: HttpRequest, row: Service, endpoint: str) -> HttpResponse:
        view = queries.view_clients(cluster=row.cluster, name=row.name)
        backends = [b for b in view.backends if endpoint in ("", b.endpoint)] if view else []
        why_not = ""
        if not may(actor=request.user, permission=OPERATE):
            why_not = "Your account may not operate backends. Ask an administrator for the role Operator."
        elif not backends:
            why_not = (
                f"There is nothing to clear: {row.name} has no persistence in what is live,"
                " or no such backend."
            )
        if why_not:
            messages.error(request, why_not)
            return HttpResponseRedirect(page_address(row))
        return self.render(
            request,
            "service_clear.html",
            title=f"Clear persistence of {endpoint or row.name}?",
            crumbs=[(row.name, page_address(row)), ("Clear persistence", "")],
            row=row,
            endpoint=endpoint,
            clients=view,
            total=sum(backend.total for backend in backends),
        )


def clients_context(request: HttpRequest, row: Service | None) -> dict[str, Any]:
    """What console/clients.html wants; nothing for a service that is not live or keeps no clients."""
    view = queries.view_clients(cluster=row.cluster, name=row.name) if row is not None else None
    if row is None or view is None:
        return {}
    found = queries.recent_clearings(cluster=row.cluster, name=row.name)
    return {
        "kept": row,
        "clients": view,
        "clearings": [(clearing, clearing_chip(clearing)) for clearing in found],
        "may_clear": may(actor=request.user, permission=OPERATE),
    }


def node_clients_context(node: Node) -> dict[str, Any]:
    """What console/node_clients.html wants."""
    return {"node_clients": queries.view_node_clients(node=node)}


def clearing_chip(row: Clearing) -> SafeString:
    return chips.chip(*_CHIPS[ClearingState(row.state)])
