"""The form of a service: text in, JSON data for the workflow out, Problems back to the fields they are about.

The fields check nothing themselves. What is wrong is said by the domain alone, in the same words in the form,
the API and the commands.
"""

import json
from collections.abc import Iterable
from typing import Any

from django import forms
from django.forms import BaseFormSet
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from balancer.domain.problem import Problem
from balancer.domain.types import BackendState, Protocol, Scheduler, SourceNatMode
from balancer.domain.validation import MAX_BACKENDS

READ_ROWS = 3000
"""Rows that are read so that they can be shown again with their errors, more than may be saved."""

_FIELD_OF = {
    "access.drop_invalid": "drop_invalid",
    "source_nat.mode": "source_nat",
    "source_nat": "source_nat",
}
NUMBER = {"inputmode": "numeric", "autocomplete": "off"}
SCHEDULERS = [(Scheduler.ROUND_ROBIN, "Round robin"), (Scheduler.RANDOM, "Random")]
SOURCE_NATS = [(SourceNatMode.MASQUERADE, "Masquerade"), (SourceNatMode.NONE, "None")]
BACKEND_STATES = [(state, str(state).capitalize()) for state in BackendState]


class Line(forms.CharField):
    """One line of text; blanks around it go, anything else stays for the domain to judge."""

    def __init__(self, **kwargs: Any) -> None:
        attrs = kwargs.pop("attrs", {})
        widget = UnfoldAdminTextInputWidget(attrs={"spellcheck": "false", **attrs})
        super().__init__(required=False, strip=False, widget=widget, **kwargs)

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).strip(" \t")


def choice_field(choices: list[tuple[str, str]], **kwargs: Any) -> forms.ChoiceField:
    return forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget, **kwargs)


class ServiceForm(forms.Form):
    name = Line(
        label="Name",
        help_text="Letters, digits, dots, underscores and hyphens.",
        attrs={"autocomplete": "off"},
    )
    description = forms.CharField(
        label="Description",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="What it is for and who to ask.",
    )
    enabled = forms.BooleanField(
        label="Enabled",
        required=False,
        initial=True,
        widget=UnfoldBooleanWidget,
        help_text="A disabled service has no rules; its connections go on as if there were no balancer.",
    )
    critical = forms.BooleanField(
        label="Critical",
        required=False,
        widget=UnfoldBooleanWidget,
        help_text="Changes to it need as many approvals as the cluster asks for critical services.",
    )
    interface = Line(
        label="Interface",
        help_text="Where connections arrive, such as eth0.",
        attrs={"list": "interfaces", "autocomplete": "off"},
    )
    address = Line(
        label="Address",
        help_text="Leave it empty for any address of the node.",
        attrs={"placeholder": "any", "autocomplete": "off"},
    )
    protocol = choice_field([(Protocol.TCP, "TCP"), (Protocol.UDP, "UDP")], label="Protocol")
    port = Line(label="Port", help_text="1 to 65535.", attrs=NUMBER)
    scheduler = choice_field(
        SCHEDULERS,
        label="Scheduler",
        help_text="Round robin is exact in every cycle, random on average.",
    )
    source_nat = choice_field(
        SOURCE_NATS,
        label="Source address",
        help_text="Masquerade: backends see the balancer. None: they see the client, and must answer through"
        " the balancer.",
    )
    drop_invalid = forms.BooleanField(
        label="Drop invalid packets",
        required=False,
        initial=True,
        widget=UnfoldBooleanWidget,
        help_text="Packets of no known connection go no further.",
    )
    seen = forms.CharField(required=False, widget=forms.HiddenInput)
    """The service as the form showed it, as JSON."""


class BackendForm(forms.Form):
    address = Line(label="Address", attrs={"aria-label": "Address of the backend", "placeholder": "10.0.0.3"})
    port = Line(label="Port", attrs={**NUMBER, "aria-label": "Port", "placeholder": "same"})
    weight = Line(label="Weight", attrs={**NUMBER, "aria-label": "Weight", "placeholder": "1"})
    state = forms.ChoiceField(
        label="State",
        choices=BACKEND_STATES,
        widget=UnfoldAdminSelectWidget(attrs={"aria-label": "State"}),
    )

    @property
    def is_blank(self) -> bool:
        """A row that nobody filled in; it is left out."""
        return not any(self.cleaned_data.get(name) for name in ("address", "port", "weight"))


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
            "interface": values["interface"],
            "address": values["address"],
            "protocol": values["protocol"],
            "port": whole_number(values["port"]),
            "scheduler": values["scheduler"],
        }
        return _without_blanks(data) | {
            "source_nat": {"mode": values["source_nat"]},
            "access": {"drop_invalid": values["drop_invalid"]},
            "backends": [_backend_data(row.cleaned_data) for row in self._kept_rows()],
        }

    def show_problems(self, problems: Iterable[Problem]) -> None:
        """Put each sentence beside the field that it is about."""
        kept = self._kept_rows()
        for problem in problems:
            head, _, rest = problem.path.partition(".")
            field = _FIELD_OF.get(problem.path, head)
            if head.startswith("backends["):
                row = kept[int(head.removeprefix("backends[").removesuffix("]"))]
                row.add_error(rest if rest in row.fields else None, problem.message)
            elif head == "backends":
                self.row_problems.append(problem.message)
            elif problem.code == "overlap":
                self.form.add_error("port", problem.message)
            elif field in self.form.fields:
                self.form.add_error(field, problem.message)
            else:
                self.problems.append(problem.message)

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

    def _kept_rows(self) -> list[BackendForm]:
        return [row for row in self.rows.forms if not row.cleaned_data.get("DELETE") and not row.is_blank]


_TOO_MANY = f"A service has at most {MAX_BACKENDS} backends. Split it into several services."


def _backend_data(values: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: whole_number(values[name]) for name in ("port", "weight")}
    return _without_blanks({"address": values["address"], "state": values["state"], **numbers})


def _without_blanks(data: dict[str, Any]) -> dict[str, Any]:
    """An empty field is a key that is not there: the domain knows its default, or that it has none."""
    return {key: value for key, value in data.items() if value != ""}


def whole_number(text: str) -> int | str:
    """The number that a text stands for; the text itself where it is none, for the domain to refuse."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else text


def _initial_fields(data: dict[str, Any] | None) -> dict[str, Any]:
    if data is None:
        return {}
    plain = {name: data[name] for name in ServiceForm.base_fields if name in data}
    return plain | {
        "seen": json.dumps(data["seen"]) if data.get("seen") else "",
        "address": data["address"] or "",
        "source_nat": data["source_nat"]["mode"],
        "drop_invalid": data["access"]["drop_invalid"],
    }


def _initial_rows(data: dict[str, Any] | None) -> list[dict[str, Any]]:
    if data is None:
        return [{"weight": "1"}]
    names = ("address", "port", "weight", "state")
    return [{name: backend[name] for name in names} for backend in data["backends"]] or [{"weight": "1"}]
