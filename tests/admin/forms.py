"""What a browser sends when somebody saves the form of a service."""

from typing import Any

Fields = dict[str, str]


def form_of(response: Any) -> Fields:
    """Everything in the form of a page, as it would be sent unchanged."""
    editor = response.context["editor"]
    fields = {f.html_name: f.value() for f in editor.form}
    for row in (editor.rows.management_form, *editor.rows.forms):
        fields |= {f.html_name: f.value() for f in row}
    sent = {name: _sent(value) for name, value in fields.items() if value not in (None, False)}
    return sent | {"original_name": response.context["original_name"]}


def add_backends(fields: Fields, count: int) -> Fields:
    """The form with so many backends in it, all different."""
    rows = {
        f"backends-{i}-{name}": value
        for i in range(count)
        for name, value in {
            "address": f"10.1.{i // 250}.{i % 250 + 1}",
            "port": "",
            "weight": "1",
            "state": "enabled",
        }.items()
    }
    kept = {name: value for name, value in fields.items() if not name.startswith("backends-")}
    return kept | {"backends-TOTAL_FORMS": str(count), "backends-INITIAL_FORMS": "0"} | rows


def new_service(**changed: str) -> Fields:
    """A new service that is all right, but for what is changed."""
    fields = {
        "name": "mail",
        "description": "",
        "enabled": "on",
        "interface": "eth0",
        "address": "",
        "protocol": "tcp",
        "port": "25",
        "scheduler": "round-robin",
        "slow_start": "0",
        "persistence": "none",
        "persistence_timeout": "300",
        "persistence_prefix": "",
        "source_nat": "masquerade",
        "source_nat_address": "",
        "source_nat_address_end": "",
        "drop_invalid": "on",
        "health": "none",
        "health_interval": "5",
        "health_timeout": "2",
        "health_rise": "2",
        "health_fall": "3",
        "health_port": "",
        "health_address": "",
        "health_method": "GET",
        "health_host": "",
        "health_path": "/",
        "health_expect_status": "200-399",
        "health_expect_body": "",
        "health_certificate_warning_days": "14",
        "health_send": "",
        "health_expect": "",
        "all_down": "keep",
        "all_down_service": "",
        "healthy_min": "0",
        "seen": "",
        "change": "",
        "original_name": "",
        "backends-TOTAL_FORMS": "1",
        "backends-INITIAL_FORMS": "0",
        "backends-0-address": "10.0.0.3",
        "backends-0-port": "",
        "backends-0-weight": "1",
        "backends-0-state": "enabled",
        "backends-0-priority": "",
    }
    return fields | {name.replace("__", "-"): value for name, value in changed.items()}


def _sent(value: Any) -> str:
    return "on" if value is True else str(value)
