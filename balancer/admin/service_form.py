"""The form of a service: text in, JSON data for the workflow out, Problems back to the fields they are about.

What is wrong is said by the domain alone, in the same words in the form, the API and the commands.
"""

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from django import forms
from django.forms import BaseFormSet

from balancer.admin.line_lists import name_line, read_lines
from balancer.admin.places import (
    addresses_text,
    interfaces_text,
    ports_text,
    read_addresses,
    read_interfaces,
    read_ports,
    whole_number,
)
from balancer.admin.service_fields import BackendForm, ServiceForm
from balancer.domain.limits import MAX_BACKENDS
from balancer.domain.problem import Problem
from balancer.domain.types import Health

READ_ROWS = 3000
"""Rows that are read so that they can be shown again with their errors, more than may be saved."""

_FIELD_OF = {
    "access.allow": "allow",
    "access.deny": "deny",
    "access.new_per_second_per_source": "new_per_second_per_source",
    "access.new_burst": "new_burst",
    "access.connections_per_source": "connections_per_source",
    "access.connections_per_backend": "connections_per_backend",
    "access.drop_invalid": "drop_invalid",
    "access.log_refused": "log_refused",
    "access.syn_proxy": "syn_proxy",
    "port_end": "port",
    "additional_ports": "port",
    "additional_addresses": "address",
    "additional_interfaces": "interface",
    "source_nat.mode": "source_nat",
    "source_nat.address": "source_nat_address",
    "source_nat.address_end": "source_nat_address_end",
    "source_nat.hairpin": "hairpin",
    "persistence.mode": "persistence",
    "persistence.timeout": "persistence_timeout",
    "persistence.prefix": "persistence_prefix",
}
_LISTS = {"access.allow", "access.deny"}
_ACCESS_NUMBERS = (
    "new_per_second_per_source",
    "new_burst",
    "connections_per_source",
    "connections_per_backend",
)
_HEALTH = {"kind": "health"} | {
    key.name: f"health_{key.name}" for key in fields(Health) if key.name != "kind"
}
"""Key of the health checks -> field of the form."""
_FIELD_OF |= {f"health.{key}": name for key, name in _HEALTH.items()}
_HEALTH_NUMBERS = {"interval", "timeout", "rise", "fall", "port", "certificate_warning_days"}
_FIELD_OF_CODE = {"overlap": "port", "overlap-from-node": "from_node", "overlap-syn-proxy": "syn_proxy"}
"""What two services claim is told at the field, whichever of them the path names."""

BackendFormSet = forms.formset_factory(
    BackendForm,
    extra=0,
    can_delete=True,
    max_num=READ_ROWS,
    absolute_max=READ_ROWS,
    validate_max=True,
)


class ServiceEditor:
    """The form and its rows as one thing."""

    def __init__(self, *, data: Any = None, initial: dict[str, Any] | None = None) -> None:
        self.form = ServiceForm(data, initial=_initial_fields(initial))
        self.rows: BaseFormSet[BackendForm] = BackendFormSet(
            data,
            initial=_initial_rows(initial),
            prefix="backends",
            error_messages={"too_many_forms": _TOO_MANY},
        )
        self.row_problems: list[str] = []
        """What is wrong with the list of backends as a whole."""
        self.problems: list[str] = []
        """What is wrong with the service as a whole, or elsewhere because of it."""

    def is_well_formed(self) -> bool:
        """Whether it can be put to the domain; where not, the fields say why."""
        form, rows = self.form.is_valid(), self.rows.is_valid()
        self.row_problems.extend(str(error) for error in self.rows.non_form_errors())
        return form and rows

    def to_data(self) -> dict[str, Any]:
        """A service of the document, as JSON data. What this version does not offer keeps its default."""
        values = self.form.cleaned_data
        data = {
            "name": values["name"],
            "description": values["description"].replace("\r\n", "\n"),
            "enabled": values["enabled"],
            "critical": values["critical"],
            **read_interfaces(values["interface"]),
            **read_addresses(values["address"]),
            "protocol": values["protocol"],
            **read_ports(values["port"]),
            "from_node": values["from_node"],
            "scheduler": values["scheduler"],
            "slow_start": whole_number(values["slow_start"]),
            "all_down": values["all_down"],
            "all_down_service": values["all_down_service"],
            "healthy_min": whole_number(values["healthy_min"]),
        }
        return _without_blanks(data) | {
            "persistence": _persistence_data(values),
            "source_nat": _source_nat_data(values),
            "access": _access_data(values),
            "health": _health_data(values),
            "backends": [_backend_data(row.cleaned_data) for row in self._kept_rows()],
        }

    def show_problems(self, problems: Iterable[Problem]) -> None:
        """Put each sentence beside the field that it is about."""
        kept = self._kept_rows()
        for problem in problems:
            head, _, rest = problem.path.partition(".")
            path = problem.path.partition("[")[0]
            field = _FIELD_OF_CODE.get(problem.code) or _FIELD_OF.get(path, head)
            if head.startswith("backends["):
                row = kept[int(head.removeprefix("backends[").removesuffix("]"))]
                row.add_error(rest if rest in row.fields else None, problem.message)
            elif head == "backends":
                self.row_problems.append(problem.message)
            elif path in _LISTS and field in self.form.fields:
                self.form.add_error(field, name_line(problem, self.form.cleaned_data.get(field, "")))
            elif field in self.form.fields:
                self.form.add_error(field, problem.message)
            else:
                self.problems.append(problem.message)

    def describe(self, problem: Problem) -> str:
        """The sentence, where no field stands beside it: one about a list names the list and the line."""
        path = problem.path.partition("[")[0]
        if path not in _LISTS:
            return problem.message
        field = _FIELD_OF[path]
        text = self.form.cleaned_data.get(field, "")
        return name_line(problem, text, of=str(self.form[field].label))

    @property
    def seen(self) -> dict[str, Any] | None:
        """The service that the form was filled in from; None for a new one, or where that is not readable."""
        try:
            found = json.loads(self.form.cleaned_data["seen"])
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    @property
    def has_problems(self) -> bool:
        return bool(self.problems or self.row_problems or self.form.errors or any(self.rows.errors))

    @property
    def limits_access(self) -> bool:
        """Whether anything about access is not as in a new service, or is wrong."""
        form = self.form
        return any(
            form[name].errors or (form[name].value() or "") != (form.fields[name].initial or "")
            for key, name in _FIELD_OF.items()
            if key.startswith("access.")
        )

    def _kept_rows(self) -> list[BackendForm]:
        return [row for row in self.rows.forms if not row.cleaned_data.get("DELETE") and not row.is_blank]


_TOO_MANY = f"A service has at most {MAX_BACKENDS} backends. Split it into several services."


def _persistence_data(values: dict[str, Any]) -> dict[str, Any]:
    return _without_blanks(
        {
            "mode": values["persistence"],
            "timeout": whole_number(values["persistence_timeout"]),
            "prefix": whole_number(values["persistence_prefix"].removeprefix("/")),
        }
    )


def _access_data(values: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: whole_number(values[name]) for name in _ACCESS_NUMBERS}
    lists = {name: [text for _, text in read_lines(values[name])] for name in ("allow", "deny")}
    flags = {name: values[name] for name in ("drop_invalid", "log_refused", "syn_proxy")}
    return _without_blanks(numbers) | lists | flags


def _source_nat_data(values: dict[str, Any]) -> dict[str, Any]:
    return _without_blanks(
        {
            "mode": values["source_nat"],
            "address": values["source_nat_address"],
            "address_end": values["source_nat_address_end"],
            "hairpin": values["hairpin"],
        }
    )


def _health_data(values: dict[str, Any]) -> dict[str, Any]:
    found = {key: values[name] for key, name in _HEALTH.items()}
    return _without_blanks(
        {key: whole_number(value) if key in _HEALTH_NUMBERS else value for key, value in found.items()}
    )


def _backend_data(values: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: whole_number(values[name]) for name in ("port", "weight", "priority")}
    return _without_blanks({"address": values["address"], "state": values["state"], **numbers})


def _without_blanks(data: dict[str, Any]) -> dict[str, Any]:
    """An empty field is a key that is not there: the domain knows its default, or that it has none."""
    return {key: value for key, value in data.items() if value != ""}


def _initial_fields(data: dict[str, Any] | None) -> dict[str, Any]:
    if data is None:
        return {}
    plain = {name: data[name] for name in ServiceForm.base_fields if name in data}
    persistence, nat = data["persistence"], data["source_nat"]
    return plain | {
        "all_down_service": data.get("all_down_service") or "",
        "seen": json.dumps(data["seen"]) if data.get("seen") else "",
        "interface": interfaces_text(data),
        "address": addresses_text(data),
        "port": ports_text(data),
        "persistence": persistence["mode"],
        "persistence_timeout": persistence["timeout"],
        "persistence_prefix": persistence.get("prefix") or "",
        "source_nat": nat["mode"],
        "source_nat_address": nat["address"] or "",
        "source_nat_address_end": nat.get("address_end") or "",
        "hairpin": nat.get("hairpin", False),
        **_initial_access(data["access"]),
        **_initial_health(data["health"]),
    }


def _initial_access(access: dict[str, Any]) -> dict[str, Any]:
    lists = {name: "\n".join(access.get(name, ())) for name in ("allow", "deny")}
    numbers = {name: access.get(name) or "" for name in _ACCESS_NUMBERS}
    return {
        **lists,
        **numbers,
        "drop_invalid": access["drop_invalid"],
        "log_refused": access.get("log_refused", False),
        "syn_proxy": access.get("syn_proxy", False),
    }


def _initial_health(data: dict[str, Any]) -> dict[str, Any]:
    """Keys that are not there, or null, leave the field as it is in a new service."""
    return {name: data[key] for key, name in _HEALTH.items() if data.get(key) is not None}


def _initial_rows(data: dict[str, Any] | None) -> list[dict[str, Any]]:
    if data is None:
        return [{"weight": "1"}]
    names = ("address", "port", "weight", "state", "priority")
    return [{name: backend[name] for name in names} for backend in data["backends"]] or [{"weight": "1"}]
