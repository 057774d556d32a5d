"""Traffic of a service: plots of what its nodes counted, and the same in tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from itertools import dropwhile
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode

from balancer.admin.site import page_address
from balancer.domain.types import format_endpoint
from balancer.models import Node, Service
from balancer.workflow import queries
from balancer.workflow.queries import CountersView, Span

SPANS = {Span.QUARTER: "15 minutes", Span.HOUR: "1 hour", Span.DAY: "24 hours", Span.MONTH: "30 days"}
PLOTS = (
    ("new", "New connections", "a second"),
    ("packets", "Packets", "a second, both ways"),
    ("bytes", "Bytes", "a second, both ways"),
    ("current", "Current connections", "the most at once"),
)
REASONS = {
    "denied": "on the deny list",
    "not-allowed": "not on the allow list",
    "rate": "too many new connections a second",
    "connections": "too many connections of one source",
    "backend-full": "the backend has too many connections",
    "invalid": "invalid packets, to the service or of a backend",
    "not-syn": "begin no connection",
    "no-backend": "no backend takes connections",
}
TOTALS_SHOWN = 200
PARTS = 12
"""Rows of the table over time."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a request asks to see; whatever it does not know is taken as not asked for."""

    span: Span
    node: Node | None
    backend: str

    def query(self, **other: str) -> str:
        named = {
            "range": str(self.span),
            "node": self.node.name if self.node else "",
            "backend": self.backend,
        }
        return urlencode({key: value for key, value in (named | other).items() if value})


class TrafficPages:
    """Mixed into the admin of services."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [
            path("<int:service_id>/traffic/", site(self.traffic_view), name="balancer_service_traffic"),
            path(
                "<int:service_id>/traffic/data/",
                site(self.traffic_data_view),
                name="balancer_service_traffic_data",
            ),
        ]
        return own + super().get_urls()

    def traffic_view(self, request: HttpRequest, service_id: int) -> HttpResponse:
        row = self.find(request, str(service_id))
        if row is None:
            return self.answer_missing(request, str(service_id))
        chosen = _chosen(request, row)
        view = _view(row, chosen)
        address = reverse("admin:balancer_service_traffic_data", args=[row.pk])
        return self.render(
            request,
            "service_traffic.html",
            title=f"Traffic of {row.name}",
            crumbs=[(row.name, page_address(row)), ("Traffic", "")],
            row=row,
            view=view,
            chosen=chosen,
            data_address=f"{address}?{chosen.query()}",
            spans=[
                (text, chosen.query(range=str(span)), span is chosen.span) for span, text in SPANS.items()
            ],
            nodes=_choices(chosen, "node", [node.name for node in _nodes(row)], chosen.node),
            endpoints=_choices(chosen, "backend", [chosen.backend] if chosen.backend else [], chosen.backend),
            span_text=SPANS[chosen.span],
            plots=PLOTS,
            backends=[_summary(lines, view, chosen) for lines in view.backends],
            totals=[(one, chosen.query(backend=one.name)) for one in view.totals[:TOTALS_SHOWN]],
            refusals=[(REASONS.get(one.name, one.name), one) for one in view.refusals],
            parts=_parts(view),
        )

    def traffic_data_view(self, request: HttpRequest, service_id: int) -> HttpResponse:
        """What the plots show, as JSON; the same to see as the page."""
        row = self.find(request, str(service_id))
        if row is None:
            return JsonResponse({"error": "There is no such service any more."}, status=404)
        return JsonResponse(_data(_view(row, _chosen(request, row))))


def _chosen(request: HttpRequest, row: Service) -> Chosen:
    asked = request.GET.get("range", "")
    name, backend = request.GET.get("node", ""), request.GET.get("backend", "")
    return Chosen(
        span=Span(asked) if asked in set(Span) else Span.HOUR,
        node=_nodes(row).filter(name=name).first() if name else None,
        backend=backend if backend in _endpoints(row) else "",
    )


def _nodes(row: Service) -> Any:
    return row.cluster.nodes.defer("observation", "clients").order_by("name")


def _endpoints(row: Service) -> set[str]:
    """Of all backends that are live, or were and have been counted."""
    live = {
        format_endpoint(address=ip_address(backend.address), port=backend.port)
        for backend in row.backends.all()
    }
    return live | {*queries.counted_endpoints(cluster=row.cluster, name=row.name)}


def _view(row: Service, chosen: Chosen) -> CountersView:
    return queries.view_counters(
        cluster=row.cluster,
        name=row.name,
        span=chosen.span,
        now=timezone.now(),
        node=chosen.node,
        backend=chosen.backend,
    )


def _choices(chosen: Chosen, key: str, names: Iterable[str], now: object) -> list[tuple[str, str, bool]]:
    """Text, query and whether it is the one that is shown; all of them first."""
    found = [(f"All {key}s", chosen.query(**{key: ""}), not now)]
    return found + [(name, chosen.query(**{key: name}), str(now) == name) for name in names]


def _summary(lines: queries.BackendLines, view: CountersView, chosen: Chosen) -> dict[str, Any]:
    """One row of the table that says what the plots show."""
    new = [number for number in lines.new if number is not None]
    return {
        "endpoint": lines.endpoint,
        "query": "" if lines.endpoint == queries.OTHERS else chosen.query(backend=lines.endpoint),
        "connections": lines.count,
        "new": _mean(lines.new),
        "peak": max(new, default=0.0),
        "packets": _mean(lines.packets),
        "bytes": _mean(lines.bytes),
        "current": next((number for number in reversed(lines.current) if number is not None), None),
        "observed": _mean(lines.observed),
        "declared": next((number for number in reversed(lines.declared) if number is not None), None),
    }


def _mean(line: queries.Line) -> float | None:
    found = [number for number in line if number is not None]
    return sum(found) / len(found) if found else None


def _parts(view: CountersView) -> list[tuple[datetime, list[tuple[str, float | None]]]]:
    """New connections a second of each backend, in a dozen parts of the time that is shown, by their ends.

    Those before anything was counted are left out.
    """
    size = -(-len(view.times) // PARTS)
    parts = [
        (
            view.times[first : first + size][-1],
            [(lines.endpoint, _mean(lines.new[first : first + size])) for lines in view.backends],
        )
        for first in range(0, len(view.times), size)
    ]
    return list(dropwhile(lambda part: all(number is None for _, number in part[1]), parts))


def _data(view: CountersView) -> dict[str, Any]:
    return {
        "times": [round(at.timestamp()) for at in view.times],
        "fair_times": [round(at.timestamp()) for at in view.fair_times],
        "backends": [
            {
                "name": lines.endpoint,
                "new": lines.new,
                "packets": lines.packets,
                "bytes": lines.bytes,
                "current": lines.current,
                "observed": lines.observed,
                "declared": lines.declared,
            }
            for lines in view.backends
        ],
        "refused": [
            {"name": REASONS.get(reason, reason), "refused": line} for reason, line in view.refused.items()
        ],
        "marks": [
            {"at": round(mark.at.timestamp()), "revision": mark.revision, "text": mark.text}
            for mark in view.marks
        ],
    }
