"""The list of services: what is live, with shares and open changes at a glance."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.views import ChangeList

from balancer.admin import chips
from balancer.admin.bulk_pages import BulkPages
from balancer.admin.clearing import ClearingPages
from balancer.admin.editing_pages import EditingPages
from balancer.admin.health import summary_chips
from balancer.admin.health_words import describe_health
from balancer.admin.import_pages import ImportPages
from balancer.admin.input_pages import InputPages
from balancer.admin.leaving import ServiceLeavingPages
from balancer.admin.operating import OperatePages
from balancer.admin.places import describe_place
from balancer.admin.service_pages import ServicePages
from balancer.admin.shares import Share, shares_of
from balancer.admin.site import ConsoleAdmin, page_address, register
from balancer.admin.traffic_pages import TrafficPages
from balancer.domain.lifecycle import CHANGE_OPEN, ChangeState
from balancer.domain.overrides import service_with_overrides
from balancer.domain.types import HealthKind, PersistenceMode, SourceNatMode
from balancer.models import Cluster, Draft, Override, Service
from balancer.workflow import queries
from balancer.workflow.effective import value_of as override_value
from balancer.workflow.live import value_of_row
from balancer.workflow.permissions import DRAFT, may

SHOWN_BACKENDS = 6


class ServiceList(ChangeList):
    """A page of services, each with the open drafts that touch it and the overrides in force: three queries
    for the whole page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        drafts = Draft.objects.filter(
            change__state__in=CHANGE_OPEN,
            change__cluster__in={row.cluster_id for row in self.result_list},
            service_name__in=[row.name for row in self.result_list],
        ).select_related("change")
        touched: dict[tuple[int, str], list[Draft]] = {}
        for draft in drafts:
            touched.setdefault((draft.change.cluster_id, draft.service_name), []).append(draft)
        for row in self.result_list:
            row.open_drafts = touched.get((row.cluster_id, row.name), [])
        self._add_overrides()
        health = queries.summarise_health(self.result_list)
        for row in self.result_list:
            row.health_now = health.get(row.pk)

    def _add_overrides(self) -> None:
        found = Override.objects.filter(
            lifted_at__isnull=True,
            cluster__in={row.cluster_id for row in self.result_list},
            service_name__in=[row.name for row in self.result_list],
        )
        own: dict[tuple[int, str], list[Override]] = {}
        for override in found:
            own.setdefault((override.cluster_id, override.service_name), []).append(override)
        for row in self.result_list:
            row.overrides = own.get((row.cluster_id, row.name), [])


@register(Service)
class ServiceAdmin(
    ServicePages,
    OperatePages,
    TrafficPages,
    ClearingPages,
    BulkPages,
    ImportPages,
    ServiceLeavingPages,
    InputPages,
    EditingPages,
    ConsoleAdmin,
):
    list_display = ("show_name", "show_address", "show_scheduler", "show_backends", "show_state")
    list_filter = ("enabled", "protocol", "scheduler", "cluster")
    search_fields = (
        "name",
        "description",
        "interface",
        "address",
        "additional_addresses",
        "additional_interfaces",
        "backends__address",
    )
    search_help_text = "Name, address, interface or backend"
    list_before_template = "console/services_before.html"
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        return super().get_queryset(request).select_related("cluster").prefetch_related("backends")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ServiceList

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        name, *rest = self.list_display
        chosen = ("show_choice",) if may(actor=request.user, permission=DRAFT) else ()
        several = ("cluster",) if Cluster.objects.count() > 1 else ()
        return (*chosen, name, *several, *rest)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "proposed": _proposed_by(request),
            "may_draft": may(actor=request.user, permission=DRAFT),
            "clusters": Cluster.objects.order_by("name"),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @display(description="Choose")
    def show_choice(self, row: Service) -> SafeString:
        return format_html(
            '<input type="checkbox" class="lb-tick" name="id" form="several" value="{}" aria-label="{}">',
            row.pk,
            f"Choose {row.name}",
        )

    @display(description="Service", ordering="name")
    def show_name(self, row: Any) -> SafeString:
        marks = format_html_join(
            "",
            '<a class="lb-chip lb-chip--info" href="{}">{} in change #{}</a>',
            (
                (page_address(draft.change), draft.get_action_display(), draft.change_id)
                for draft in row.open_drafts
            ),
        )
        return format_html(
            '<div><a class="lb-plain" href="{}">{}</a> {} {}{}{}</div>',
            page_address(row),
            row.name,
            chips.critical_chip() if row.critical else "",
            chips.overridden_chip(len(row.overrides)) if row.overrides else "",
            format_html('<div class="lb-muted lb-small">{}</div>', row.description)
            if row.description
            else "",
            _optional('<div class="lb-chips">{}</div>', marks),
        )

    @display(description="Listens on", ordering="address")
    def show_address(self, row: Service) -> SafeString:
        return format_html('<div class="lb-mono lb-narrow">{}</div>', place_of(row))

    @display(description="Scheduler", ordering="scheduler")
    def show_scheduler(self, row: Service) -> SafeString:
        more = _optional('<div class="lb-muted lb-small">{}</div>', ", ".join(options_of(row)))
        return format_html('<div class="lb-narrow">{}{}</div>', row.get_scheduler_display(), more)

    @display(description="Backends and shares")
    def show_backends(self, row: Any) -> SafeString:
        """As the nodes have it now, with the overrides in force."""
        value = value_of_row(row)
        if value is None:
            return chips.chip("Unreadable", "bad")
        overrides = [override_value(override) for override in row.overrides]
        down = row.health_now.down if row.health_now else frozenset()
        return render_shares(shares_of(service_with_overrides(value, overrides)), down=down)

    @display(description="State", ordering="enabled")
    def show_state(self, row: Any) -> SafeString:
        if row.enabled and not any(backend.state == "enabled" for backend in row.backends.all()):
            return chips.chip("Refuses all", "warn", "warning")
        found = (chips.enabled_chip(row.enabled), *summary_chips(row.health_now))
        return format_html(
            '<div class="lb-chips">{}</div>', format_html_join("", "{}", ((c,) for c in found))
        )


def place_of(row: Service) -> str:
    """`eth0 · any:80/tcp`."""
    return describe_place(
        interfaces=row.interfaces, addresses=row.addresses, ports=row.ports, protocol=row.protocol
    )


def options_of(row: Service) -> list[str]:
    """What else there is to know about how the service balances, where it is not as usual."""
    found = []
    if row.persistence.get("mode") == PersistenceMode.SOURCE:
        prefix = row.persistence.get("prefix")
        who = f"/{prefix} networks keep" if prefix else "clients keep"
        found.append(f"{who} their backend for {row.persistence['timeout']} s")
    if row.slow_start:
        found.append(f"slow start in {row.slow_start} s")
    if row.source_nat_mode == SourceNatMode.NONE:
        found.append("backends see clients")
    if row.source_nat_mode == SourceNatMode.SNAT:
        last = row.source_nat_address_end
        found.append(f"backends see {row.source_nat_address}{f' to {last}' if last else ''}")
    if row.health.get("kind", HealthKind.NONE) != HealthKind.NONE:
        found.append(describe_health(row.health))
    if row.from_node:
        found.append("from the node itself, too")
    return found


def render_shares(shares: tuple[Share, ...], *, down: frozenset[str] = frozenset()) -> SafeString:
    """The backends of a service in a list, the first few of them; those `down` are so on a node at least."""
    if not shares:
        return format_html('<span class="lb-muted">{}</span>', "No backends")
    rows = format_html_join(
        "",
        '<li><span class="lb-backends__name lb-mono">{}{}</span>'
        '<span class="lb-bar" aria-hidden="true"><span style="width:{}%"></span></span>'
        '<span class="lb-backends__share">{}</span><span class="lb-backends__state">{}</span></li>',
        (
            (chips.backend_dot(state), s.endpoint, s.width, s.text, _state_word(state))
            for s in shares[:SHOWN_BACKENDS]
            for state in ["down" if s.endpoint in down and s.state == "enabled" else s.state]
        ),
    )
    rest = len(shares) - SHOWN_BACKENDS
    more = (
        format_html('<li><span class="lb-backends__rest">and {} more</span></li>', rest) if rest > 0 else ""
    )
    return format_html('<ul class="lb-backends">{}{}</ul>', rows, more)


def _optional(template: str, content: object) -> SafeString | str:
    return format_html(template, content) if content else ""


def _state_word(state: str) -> str:
    return "" if state == "enabled" else state


def _proposed_by(request: HttpRequest) -> list[Draft]:
    """New services of this person's own draft changes: they exist nowhere else yet."""
    return list(
        Draft.objects.filter(
            change__author=request.user, change__state=ChangeState.DRAFT, action=Draft.Action.CREATE
        ).select_related("change__cluster")[:SHOWN_BACKENDS]
    )
