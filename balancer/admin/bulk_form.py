"""The form of an edit of several services: one field, a control that fits it, and what the preview showed."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from balancer.admin.choices import BACKEND_STATES, PERSISTENCES, SCHEDULERS, Choice
from balancer.admin.places import read_list, whole_number
from balancer.admin.service_fields import NUMBER, Line
from balancer.workflow.bulk import FIELDS

_YES_NO = [("yes", "Yes"), ("no", "No")]
_BACKEND = "backends."
_FLAGS = {"enabled", "critical", "from_node", "access.drop_invalid"}
_NUMBERS = {"slow_start", "persistence.timeout", "backends.weight", "backends.priority"}


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
    value_enabled = Choice(choices=_YES_NO, label="Enabled", required=False)
    value_critical = Choice(choices=_YES_NO, label="Critical", required=False)
    value_interface = Line(
        label="First interface",
        help_text="Where connections arrive, such as eth0. Further interfaces stay as they are.",
        attrs={"list": "interfaces", "autocomplete": "off"},
    )
    value_additional_interfaces = Line(
        label="Further interfaces",
        help_text="With commas between them; empty for none.",
        attrs={"autocomplete": "off", "placeholder": "none"},
    )
    value_from_node = Choice(choices=_YES_NO, label="From the node itself", required=False)
    value_scheduler = Choice(choices=SCHEDULERS, label="Scheduler", required=False)
    value_slow_start = Line(label="Slow start", help_text="Seconds; 0: at once.", attrs=NUMBER)
    value_persistence_mode = Choice(choices=PERSISTENCES, label="Persistence", required=False)
    value_persistence_timeout = Line(
        label="Timeout of persistence",
        help_text="Seconds after a client's last new connection.",
        attrs=NUMBER,
    )
    value_persistence_prefix = Line(
        label="Clients that stay together",
        help_text="Those whose addresses begin with so many equal bits; empty: each address for itself.",
        attrs=NUMBER,
    )
    value_source_nat_mode = Choice(
        choices=[("masquerade", "Masquerade"), ("none", "None")], label="Source address", required=False
    )
    value_source_nat_address = Line(
        label="New source address",
        help_text="The address that backends see; for a pool its first and last, 198.51.100.1-198.51.100.4.",
        attrs={"autocomplete": "off"},
    )
    value_access_drop_invalid = Choice(choices=_YES_NO, label="Drop invalid packets", required=False)
    value_description = forms.CharField(
        label="Description",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        help_text="Takes the place of what each of them has now.",
    )
    value_backends_state = Choice(choices=BACKEND_STATES, label="State of the backend", required=False)
    value_backends_weight = Line(label="Weight of the backend", help_text="1 to 256.", attrs=NUMBER)
    value_backends_priority = Line(
        label="Priority of the backend", help_text="0 to 255; the lowest takes the connections.", attrs=NUMBER
    )

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
    if field in _FLAGS:
        return {"yes": True, "no": False}.get(text, text)
    if field in _NUMBERS:
        return whole_number(text)
    if field == "persistence.prefix":
        return whole_number(text.removeprefix("/")) if text else None
    if field == "additional_interfaces":
        return read_list(text)
    return text.replace("\r\n", "\n")
