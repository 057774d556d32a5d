"""The form of an edit of several services: one field, a control that fits it, and what the preview showed."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from balancer.admin.service_form import (
    BACKEND_STATES,
    NUMBER,
    SCHEDULERS,
    SOURCE_NATS,
    Line,
    choice_field,
    whole_number,
)
from balancer.workflow.bulk import FIELDS

_YES_NO = [("yes", "Yes"), ("no", "No")]
_BACKEND = "backends."


def value_name(field: str) -> str:
    """The name in the form of the control that a field has."""
    return f"value_{field.replace('.', '_')}"


class BulkForm(forms.Form):
    names = forms.CharField(required=False, widget=forms.HiddenInput)
    """With a blank between them, which no name of a service has."""
    field = forms.ChoiceField(
        label="Field",
        choices=list(FIELDS.items()),
        widget=UnfoldAdminSelectWidget(attrs={"data-chooses": "value"}),
        error_messages={"invalid_choice": "There is no such field; choose one of the list."},
    )
    backend = Line(
        label="Backend",
        help_text="Address and port, such as 10.0.0.3:80. Services without it stay as they are.",
        attrs={"placeholder": "10.0.0.3:80", "autocomplete": "off"},
    )
    value_enabled = choice_field(_YES_NO, label="Enabled", required=False)
    value_critical = choice_field(_YES_NO, label="Critical", required=False)
    value_interface = Line(
        label="Interface",
        help_text="Where connections arrive, such as eth0.",
        attrs={"list": "interfaces", "autocomplete": "off"},
    )
    value_scheduler = choice_field(SCHEDULERS, label="Scheduler", required=False)
    value_source_nat_mode = choice_field(SOURCE_NATS, label="Source address", required=False)
    value_access_drop_invalid = choice_field(_YES_NO, label="Drop invalid packets", required=False)
    value_description = forms.CharField(
        label="Description",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="Takes the place of what each of them has now.",
    )
    value_backends_state = choice_field(BACKEND_STATES, label="State of the backend", required=False)
    value_backends_weight = Line(label="Weight of the backend", help_text="1 to 256.", attrs=NUMBER)

    @property
    def names_chosen(self) -> tuple[str, ...]:
        return tuple(str(self["names"].value() or "").split())

    def to_edit(self) -> dict[str, Any]:
        """`field`, `value` and `backend`, as `workflow.bulk` takes them; the domain judges the value."""
        values = self.cleaned_data
        field = values["field"]
        backend = values["backend"] if field.startswith(_BACKEND) else ""
        return {"field": field, "value": _read(field, values[value_name(field)]), "backend": backend}

    def controls(self) -> list[tuple[str, forms.BoundField]]:
        """Each control, and the fields (with a blank between them) for which it is there."""
        of_backends = " ".join(field for field in FIELDS if field.startswith(_BACKEND))
        return [(of_backends, self["backend"]), *((field, self[value_name(field)]) for field in FIELDS)]


def _read(field: str, text: str) -> Any:
    if field in {"enabled", "critical", "access.drop_invalid"}:
        return {"yes": True, "no": False}.get(text, text)
    if field == "backends.weight":
        return whole_number(text)
    return text.replace("\r\n", "\n")
