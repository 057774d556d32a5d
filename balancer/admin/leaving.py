"""Backends that drain, counted down on the pages of services and nodes: a piece that is polled."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from balancer.models import Node, Service
from balancer.workflow import queries

_PIECE = "console/leaving.html"


class ServiceLeavingPages:
    """Mixed into the admin of services."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [path("<int:service_id>/leaving/", site(self.leaving_view), name="balancer_service_leaving")]
        return own + super().get_urls()

    def leaving_view(self, request: HttpRequest, service_id: int) -> HttpResponse:
        row = self.find(request, str(service_id))
        if row is None:
            return HttpResponse("", status=404)
        return TemplateResponse(request, _PIECE, service_leaving(row))


class NodeLeavingPages:
    """Mixed into the admin of nodes."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [path("<int:node_id>/leaving/", site(self.leaving_view), name="balancer_node_leaving")]
        return own + super().get_urls()

    def leaving_view(self, request: HttpRequest, node_id: int) -> HttpResponse:
        row = self.find(request, str(node_id))
        if row is None:
            return HttpResponse("", status=404)
        return TemplateResponse(request, _PIECE, node_leaving(row))


def service_leaving(row: Service) -> dict[str, Any]:
    """What console/leaving.html wants."""
    return {
        "leaving": queries.leaving_of_service(cluster=row.cluster, name=row.name),
        "leaving_address": reverse("admin:balancer_service_leaving", args=[row.pk]),
    }


def node_leaving(row: Node) -> dict[str, Any]:
    """The same for all services on one node."""
    return {
        "leaving": queries.leaving_of_node(node=row),
        "leaving_address": reverse("admin:balancer_node_leaving", args=[row.pk]),
        "leaving_on_node": True,
    }
