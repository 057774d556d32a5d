"""The form of an edit of several services: one field, controls that fit it, and what the preview showed."""

from collections.abc import Iterable
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from balancer.admin.choices import BACKEND_STATES, HEALTH_KINDS, PERSISTENCES, SCHEDULERS, Choice
from balancer.admin.line_lists import name_line, read_lines
from balancer.admin.places import read_list, whole_number
from balancer.admin.service_fields import NUMBER, Line, Lines
from balancer.domain.problem import Problem
from balancer.workflow.bulk import FIELDS
from balancer.workflow.bulk_values import HEALTH, LIMITS, LISTS

_YES_NO = [("yes", "Yes"), ("no", "No")]
_BACKEND = "backends."
_FLAGS = {
    "enabled",
    "critical",
    "from_node",
    "access.drop_invalid",
    "access.syn_proxy",
    "access.log_refused",
}
_NUMBERS = {"slow_start", "persistence.timeout", "backends.weight", "backends.priority"}
_PARTS = {
    **dict.fromkeys(LISTS, ("add", "remove")),
    LIMITS: (
        "new_per_second_per_source",
        "new_burst",
        "connections_per_source",
        "connections_per_backend",
    ),
    HEALTH: ("kind", "interval", "timeout", "fall", "rise"),
}
"""Fields of which a part can be given, each part with a control of its own; an empty one is left as it is."""
_AS_IT_IS = {**NUMBER, "placeholder": "leave as it is"}
_NO_LIMIT = "none"


def value_name(field: str, part: str = "") -> str:
    """The name in the form of the control that a field, or a part of it, has."""
    return f"value_{field.replace('.', '_')}{part and f'_{part}'}"


def value_names(field: str) -> tuple[str, ...]:
    return tuple(value_name(field, part) for part in _PARTS.get(field, ("",)))


def _limit(label: str, help_text: str) -> Line:
    # A phone's keyboard of digits has no letters for "none".
    attrs = {"autocomplete": "off", "placeholder": _AS_IT_IS["placeholder"]}
    return Line(label=label, help_text=f"{help_text} Empty: leave as it is; none: no limit.", attrs=attrs)


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
    value_access_syn_proxy = Choice(choices=_YES_NO, label="SYN proxy", required=False)
    value_access_log_refused = Choice(choices=_YES_NO, label="Log what is refused", required=False)
    value_access_deny_add = Lines(
        label="Add to the deny list",
        help_text="Networks, one in each line. What is there already stays as it is.",
        placeholder="203.0.113.0/24",
    )
    value_access_deny_remove = Lines(
        label="Take out of the deny list",
        help_text="Networks as they are written there, one in each line.",
        placeholder="198.51.100.0/24",
    )
    value_access_allow_add = Lines(
        label="Add to the allow list",
        help_text="Networks, one in each line. Services without an allow list let everybody in until now;"
        " with it, these networks alone.",
        placeholder="203.0.113.0/24",
    )
    value_access_allow_remove = Lines(
        label="Take out of the allow list",
        help_text="Networks as they are written there, one in each line. A list that loses its last one lets"
        " everybody in.",
        placeholder="198.51.100.0/24",
    )
    value_access_limits_new_per_second_per_source = _limit(
        "New connections per second", "Of each source. Without it the burst goes, too."
    )
    value_access_limits_new_burst = _limit("Burst", "New connections that a quiet source may begin at once.")
    value_access_limits_connections_per_source = _limit("Connections of a source", "At the same time.")
    value_access_limits_connections_per_backend = _limit("Connections of a backend", "At the same time.")
    value_health_kind = Choice(
        choices=[("", "Leave as it is"), *HEALTH_KINDS], label="Health checks", required=False
    )
    value_health_interval = Line(
        label="Interval",
        help_text="Seconds from one check to the next. Empty: leave as it is.",
        attrs=_AS_IT_IS,
    )
    value_health_timeout = Line(
        label="Timeout of a check",
        help_text="Seconds; the interval at most. Empty: leave as it is.",
        attrs=_AS_IT_IS,
    )
    value_health_fall = Line(
        label="Fall",
        help_text="Failures in a row until a backend is down. Empty: leave as it is.",
        attrs=_AS_IT_IS,
    )
    value_health_rise = Line(
        label="Rise",
        help_text="Good checks in a row until it is up again. Empty: leave as it is.",
        attrs=_AS_IT_IS,
    )
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
        texts = {part: values[value_name(field, part)] for part in _PARTS.get(field, ("",))}
        value = _read_parts(field, texts) if field in _PARTS else _read(field, texts[""])
        return {"field": field, "value": value, "backend": backend}

    def show_problems(self, problems: Iterable[Problem]) -> bool:
        """Put what is wrong with a list beside it, with the line; whether there was any."""
        field = self.cleaned_data["field"]
        found = False
        for problem in problems:
            part = problem.path.partition("[")[0]
            if part in _PARTS.get(field, ()):
                name = value_name(field, part)
                self.add_error(name, name_line(problem, self.cleaned_data.get(name, "")))
                found = True
        return found

    def controls(self) -> list[tuple[str, forms.BoundField]]:
        """Each control, and the fields (with a blank between them) for which it is there."""
        of_backends = " ".join(field for field in FIELDS if field.startswith(_BACKEND))
        own = ((field, self[name]) for field in FIELDS for name in value_names(field))
        return [(of_backends, self["backend"]), *own]


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


def _read_parts(field: str, texts: dict[str, str]) -> dict[str, Any]:
    """What is left empty is no part of the value, but for lists, which are empty then."""
    if field in LISTS:
        return {part: [entry for _, entry in read_lines(text)] for part, text in texts.items()}
    given = {part: text for part, text in texts.items() if text}
    if field == LIMITS:
        return {p: None if text.lower() == _NO_LIMIT else whole_number(text) for p, text in given.items()}
    return {part: text if part == "kind" else whole_number(text) for part, text in given.items()}
