"""Operating a service: its backends as they are now, and the buttons that move them without a change."""

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from balancer.admin import chips
from balancer.admin.clearing import clients_context
from balancer.admin.drift import drift_of_cluster
from balancer.admin.health import health_of_service
from balancer.admin.leaving import service_leaving
from balancer.admin.outdated import outdated_in
from balancer.admin.shares import describe_share
from balancer.admin.site import actor_of, page_address, read_key
from balancer.admin.weights import weights_of_service
from balancer.domain.health import HealthState
from balancer.domain.types import BackendState
from balancer.models import Cluster, Override, Service
from balancer.workflow import overrides, queries
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import OPERATE, may

WEIGHT = "weight"
_BUTTONS = (
    (BackendState.DRAINING, "Drain", "hourglass_bottom"),
    (BackendState.DISABLED, "Disable", "block"),
    (BackendState.ENABLED, "Enable", "play_arrow"),
)


class OperatePages:
    """Mixed into the admin of services."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [path("<int:service_id>/operate/", site(self.operate_view), name="balancer_service_operate")]
        return own + super().get_urls()

    def operate_view(self, request: HttpRequest, service_id: int) -> HttpResponse:
        """The backends with their buttons; a POST is a press of one of them, `do` says of which."""
        row = self.find(request, str(service_id))
        if row is None:
            return self.answer_missing(request, str(service_id))
        if request.method != "POST":
            return self._show_operation(request, row)
        try:
            done = _operate(request, row)
        except Refused as refusal:
            messages.error(request, refusal.message)
            typed = {name: request.POST.get(name, "") for name in ("endpoint", "reason", "weight")}
            return self._show_operation(request, row, typed=typed)
        messages.success(request, _answer(done))
        return HttpResponseRedirect(page_address(row))

    def _show_operation(
        self, request: HttpRequest, row: Service, typed: dict[str, str] | None = None
    ) -> HttpResponse:
        crumbs = [(row.name, page_address(row)), ("Operate", "")]
        context = operation_context(request, row)
        return self.render(
            request,
            "service_operate.html",
            title=f"Operate {row.name}",
            crumbs=crumbs,
            row=row,
            typed=typed,
            **context,
        )


def operation_context(request: HttpRequest, row: Service | None) -> dict[str, Any]:
    """What console/operate.html wants; nothing for a service that is not live."""
    if row is None:
        return {}
    found = queries.view_operation(cluster=row.cluster, name=row.name)
    health = health_of_service(row)
    lines = health.get("health_of", {})
    return {
        "operated": row,
        "backends": [
            _show_backend(backend, health=lines.get(backend.now.endpoint, ())) for backend in found.backends
        ],
        "overrides": [show_override(view) for view in found.overrides],
        "may_operate": may(actor=request.user, permission=OPERATE),
        **drift_of_cluster(request, row.cluster),
        **outdated_in(row.cluster),
        **clients_context(request, row),
        **service_leaving(row),
        **weights_of_service(row),
        **health,
    }


def in_force(request: HttpRequest, cluster: Cluster) -> dict[str, Any]:
    """The overrides in force in a cluster, for the notes on pages of what is approved."""
    return {
        "overrides": [show_override(view) for view in queries.view_overrides(cluster=cluster)],
        "may_operate": may(actor=request.user, permission=OPERATE),
    }


def show_override(view: queries.OverrideView) -> dict[str, Any]:
    return {
        "row": view.override,
        "chip": override_chip(view.override),
        "review": view.review,
        "signature": signature_chip(signed=view.review.signed),
        "without_effect": view.without_effect,
    }


def override_chip(row: Override) -> SafeString:
    return chips.chip(row.words.capitalize(), "warn", "build")


def signature_chip(*, signed: bool) -> SafeString:
    return chips.chip("Signed", "ok", "verified") if signed else chips.chip("Not signed", "bad", "draw")


def _show_backend(view: queries.BackendNow, *, health: Sequence[dict[str, Any]]) -> dict[str, Any]:
    low, high = view.weights
    down = any(line["row"].state is HealthState.DOWN for line in health)
    share = describe_share(view.share, parts=view.parts, standby=view.standby)
    return {
        "endpoint": view.now.endpoint,
        "dot": chips.backend_dot("down" if down else view.now.state),
        "state": str(view.now.state),
        "weight": view.now.weight,
        "share": f"{share} when up" if down and view.share else share,
        "health": health,
        "approved": f"{view.approved.state}, weight {view.approved.weight}",
        "overridden": view.overridden,
        "buttons": [button for button in _BUTTONS if button[0] is not view.now.state],
        "low": low,
        "high": high,
        "movable": low < high,
    }


def _operate(request: HttpRequest, row: Service) -> Override:
    button, typed = request.POST.get("do", ""), request.POST.get("weight", "").strip()
    address, port = _read_endpoint(request.POST.get("endpoint", ""))
    state = BackendState(button) if button in set(BackendState) else None
    weight = read_key(typed) if button == WEIGHT else None
    if button == WEIGHT and weight is None:
        raise Refused("invalid", "Type the weight as a whole number. Nothing was changed.")
    return overrides.set_override(
        actor=actor_of(request),
        cluster=row.cluster,
        service=row.name,
        address=address,
        port=port,
        state=state,
        weight=weight,
        reason=request.POST.get("reason", ""),
    )


def _read_endpoint(text: str) -> tuple[str, int]:
    """`10.0.0.3:80` or `[2001:db8::1]:80`; an address that is none is refused by the workflow."""
    address, _, port = text.rpartition(":")
    return address.strip("[]"), read_key(port) or 0


def _answer(done: Override) -> str:
    if done.lifted_at is not None:
        return f"{done.endpoint} is as approved again. The nodes get it within seconds."
    return (
        f"{done.endpoint}: {done.words}. The nodes get it within seconds; it stays so through later applies"
        " until it is lifted, and waits for a second person's signature."
    )
