"""The fields of a service and of a backend. They check nothing: what is wrong is said by the domain."""

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from balancer.admin.choices import (
    ALL_DOWN,
    ALL_DOWN_HELP,
    BACKEND_STATES,
    HEALTH_HELP,
    HEALTH_KINDS,
    HTTP_METHODS,
    PERSISTENCE_HELP,
    PERSISTENCES,
    PROTOCOLS,
    SCHEDULER_HELP,
    SCHEDULERS,
    SOURCE_NAT_HELP,
    SOURCE_NATS,
    Choice,
    chooser,
)

NUMBER = {"inputmode": "numeric", "autocomplete": "off"}


class Line(forms.CharField):
    """One line of text; blanks around it go, anything else stays for the domain to judge."""

    def __init__(self, **kwargs: Any) -> None:
        attrs = kwargs.pop("attrs", {})
        widget = UnfoldAdminTextInputWidget(attrs={"spellcheck": "false", **attrs})
        super().__init__(required=False, strip=False, widget=widget, **kwargs)

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).strip(" \t")


class Lines(forms.CharField):
    """A list with an entry in each line, maybe thousands of them."""

    def __init__(self, *, placeholder: str, **kwargs: Any) -> None:
        attrs = {"rows": 4, "spellcheck": "false", "autocomplete": "off", "data-counts": "networks"}
        widget = UnfoldAdminTextareaWidget(attrs={**attrs, "placeholder": placeholder})
        super().__init__(required=False, strip=False, widget=widget, **kwargs)


def check(label: str, help_text: str, **kwargs: Any) -> forms.BooleanField:
    return forms.BooleanField(
        label=label, help_text=help_text, required=False, widget=UnfoldBooleanWidget, **kwargs
    )


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
    enabled = check(
        "Enabled",
        "A disabled service has no rules; its connections go on as if there were no balancer.",
        initial=True,
    )
    critical = check(
        "Critical", "Changes to it need as many approvals as the cluster asks for critical services."
    )
    interface = Line(
        label="Interfaces",
        help_text="Where connections arrive, such as eth0; several with commas between them.",
        attrs={"list": "interfaces", "autocomplete": "off"},
    )
    address = Line(
        label="Addresses",
        help_text="Leave it empty for any address of the node; several with commas between them.",
        attrs={"placeholder": "any", "autocomplete": "off"},
    )
    protocol = Choice(choices=PROTOCOLS, label="Protocol")
    port = Line(
        label="Ports",
        help_text="Such as 443, or 80, 443, 8000-8099. A backend's port answers for the first of them; the"
        " others keep their distance from it.",
        attrs={"autocomplete": "off"},
    )
    from_node = check(
        "From the node itself", "Connections that programs on the nodes make to this place are balanced, too."
    )
    scheduler = chooser("scheduler", choices=SCHEDULERS, helps=SCHEDULER_HELP, label="Scheduler")
    slow_start = Line(
        label="Slow start",
        help_text="Seconds in which a backend that comes back rises to its whole weight; 0: at once.",
        attrs=NUMBER,
        initial="0",
    )
    persistence = chooser(
        "persistence", choices=PERSISTENCES, helps=PERSISTENCE_HELP, label="Persistence", required=False
    )
    persistence_timeout = Line(
        label="Timeout of persistence",
        help_text="Seconds after a client's last new connection; 1 to 604800.",
        attrs=NUMBER,
        initial="300",
    )
    persistence_prefix = Line(
        label="Clients that stay together",
        help_text="Those whose addresses begin with so many equal bits, such as 24. Empty: each address for"
        " itself.",
        attrs={**NUMBER, "placeholder": "each for itself"},
    )
    source_nat = chooser("source_nat", choices=SOURCE_NATS, helps=SOURCE_NAT_HELP, label="Source address")
    source_nat_address = Line(
        label="New source address",
        help_text="The address that backends see, or the first of a pool.",
        attrs={"autocomplete": "off", "placeholder": "198.51.100.1"},
    )
    source_nat_address_end = Line(
        label="Last address of the pool",
        help_text="Leave it empty for a single address.",
        attrs={"autocomplete": "off"},
    )
    hairpin = check(
        "Hairpin",
        "A backend that uses the service itself is masqueraded; otherwise its own answers would pass the"
        " node by.",
    )
    health = chooser("health", choices=HEALTH_KINDS, helps=HEALTH_HELP, label="Health checks", required=False)
    health_interval = Line(
        label="Interval",
        help_text="Seconds from one check to the next; 1 to 3600.",
        attrs=NUMBER,
        initial="5",
    )
    health_timeout = Line(
        label="Timeout of a check", help_text="Seconds; the interval at most.", attrs=NUMBER, initial="2"
    )
    health_fall = Line(
        label="Fall", help_text="Failures in a row until a backend is down.", attrs=NUMBER, initial="3"
    )
    health_rise = Line(
        label="Rise", help_text="Good checks in a row until it is up again.", attrs=NUMBER, initial="2"
    )
    health_port = Line(
        label="Port to check",
        help_text="Empty: each backend's own.",
        attrs={**NUMBER, "placeholder": "the backend's"},
    )
    health_address = Line(
        label="Address to check",
        help_text="Asked instead of the backends: one answer for all of them. Empty: each backend's own.",
        attrs={"autocomplete": "off", "placeholder": "the backend's"},
    )
    health_method = Choice(choices=HTTP_METHODS, label="Method", required=False)
    health_host = Line(
        label="Host",
        help_text="The Host header, and the name that TLS asks for. Empty: address and port.",
        attrs={"autocomplete": "off", "placeholder": "www.example.net"},
    )
    health_path = Line(label="Path", help_text="Begins with /.", attrs={"autocomplete": "off"}, initial="/")
    health_expect_status = Line(
        label="Expected status",
        help_text="Statuses and ranges, such as 200-299,301.",
        attrs={"autocomplete": "off"},
        initial="200-399",
    )
    health_expect_body = Line(
        label="Expected text",
        help_text="Must be in the first 64 KiB of the answer's body. Empty: any.",
        attrs={"autocomplete": "off"},
    )
    health_certificate_warning_days = Line(
        label="Warn of a certificate",
        help_text="So many days before it expires; 0: never.",
        attrs=NUMBER,
        initial="14",
    )
    health_verify_certificate = check(
        "Verify the certificate",
        "One that the node does not trust, or that is not for the host, is a failure.",
    )
    health_send = Line(
        label="Send",
        help_text=r"Text; other bytes as \x00 to \xff, and \\ for a backslash. Empty: an empty packet.",
        attrs={"autocomplete": "off"},
    )
    health_expect = Line(
        label="Expected answer",
        help_text="What it must hold, written in the same way. Empty: silence is good.",
        attrs={"autocomplete": "off"},
    )
    all_down = chooser(
        "all_down", choices=ALL_DOWN, helps=ALL_DOWN_HELP, label="When all are down", required=False
    )
    all_down_service = Line(
        label="Service that stands in",
        help_text="The name of another enabled service of this protocol and address family.",
        attrs={"autocomplete": "off"},
    )
    healthy_min = Line(
        label="Least healthy share",
        help_text="Per cent of the enabled backends, 0 to 100. With fewer of them the same holds as when all"
        " are down, until the share is 10 points above, or all are up. 0: only when all are down.",
        attrs=NUMBER,
        initial="0",
    )
    allow = Lines(
        label="Allow list",
        help_text="Networks whose clients may connect, one in each line. Empty: everybody. Otherwise"
        " everybody else is dropped, the node itself included.",
        placeholder="198.51.100.0/24",
    )
    deny = Lines(
        label="Deny list",
        help_text="Networks whose new connections are dropped, one in each line; older ones live on."
        " Deny wins over allow.",
        placeholder="203.0.113.0/24",
    )
    new_per_second_per_source = Line(
        label="New connections per second",
        help_text="Of each source, which is an IPv4 address or an IPv6 /64. Empty: any number.",
        attrs={**NUMBER, "placeholder": "no limit"},
    )
    new_burst = Line(
        label="Burst",
        help_text="New connections that a quiet source may begin at once. Empty: those of a second, and at"
        " least 5.",
        attrs=NUMBER,
    )
    connections_per_source = Line(
        label="Connections of a source",
        help_text="At the same time. Empty: any number.",
        attrs={**NUMBER, "placeholder": "no limit"},
    )
    connections_per_backend = Line(
        label="Connections of a backend",
        help_text="At the same time; what comes beyond is dropped, and the client's next try may meet another"
        " backend. Empty: any number.",
        attrs={**NUMBER, "placeholder": "no limit"},
    )
    drop_invalid = check(
        "Drop invalid packets",
        "Malformed packets, and TCP packets of no known connection that do not begin one, go no further."
        " A client in the middle of a connection that the node does not know is reset, and connects again.",
        initial=True,
    )
    syn_proxy = check(
        "SYN proxy",
        "For TCP: the node shakes hands with a client before a backend hears of it, so that a flood of SYNs"
        " ends at the node.",
    )
    log_refused = check(
        "Log what is refused",
        "In the kernel's log of the node, with the service's name and the reason; a line a second for each.",
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
    priority = Line(label="Priority", attrs={**NUMBER, "aria-label": "Priority", "placeholder": "0"})

    @property
    def is_blank(self) -> bool:
        """A row that nobody filled in; it is left out."""
        return not any(self.cleaned_data.get(name) for name in ("address", "port", "weight"))
