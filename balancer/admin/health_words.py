"""The health checks of a service in one line."""

from collections.abc import Mapping
from typing import Any

from balancer.admin.choices import HEALTH_KINDS
from balancer.domain.address_scalars import address
from balancer.domain.types import HealthKind, format_endpoint

_NAMES = {str(kind): name for kind, name in HEALTH_KINDS}


def describe_health(data: Mapping[str, Any]) -> str:
    """`HTTP every 5 s: GET /, status 200-399; down after 3 failures, up after 2 good checks`."""
    kind = data.get("kind", HealthKind.NONE)
    if kind == HealthKind.NONE:
        return "none: every enabled backend gets connections"
    asked = "; ".join(part for part in (_what_is_asked(kind, data), _where(data)) if part)
    fall, rise = data["fall"], data["rise"]
    counted = f"down after {_count(fall, 'failure')}, up after {_count(rise, 'good check')}"
    every = f"{_NAMES[kind]} every {data['interval']} s"
    return f"{every}: {asked}; {counted}" if asked else f"{every}; {counted}"


def _what_is_asked(kind: str, data: Mapping[str, Any]) -> str:
    if kind in {HealthKind.HTTP, HealthKind.HTTPS}:
        host = f" of {data['host']}" if data.get("host") else ""
        text = ", with the expected text" if data.get("expect_body") else ""
        return f"{data.get('method', 'GET')} {data['path']}{host}, status {data['expect_status']}{text}"
    if kind == HealthKind.UDP:
        return "an expected answer" if data.get("expect") else "silence is good"
    return ""


def _where(data: Mapping[str, Any]) -> str:
    host, port = data.get("address"), data.get("port")
    if host and port:
        return f"at {format_endpoint(address=address(host), port=port)}"
    if host or port:
        return f"at {host}" if host else f"at port {port}"
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
