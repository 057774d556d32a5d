"""What can be chosen in forms, each choice with what it means in plain words."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget

from balancer.domain.types import (
    AllDown,
    BackendState,
    HealthKind,
    HttpMethod,
    PersistenceMode,
    Protocol,
    Scheduler,
    SourceNatMode,
)

Choices = list[tuple[str, str]]

PROTOCOLS: Choices = [(Protocol.TCP, "TCP"), (Protocol.UDP, "UDP"), (Protocol.SCTP, "SCTP")]
SCHEDULERS: Choices = [
    (Scheduler.ROUND_ROBIN, "Round robin"),
    (Scheduler.RANDOM, "Random"),
    (Scheduler.SOURCE_HASH, "Source hash"),
    (Scheduler.FAILOVER, "Failover"),
    (Scheduler.LEAST_CONNECTIONS, "Least connections"),
]
SOURCE_NATS: Choices = [
    (SourceNatMode.MASQUERADE, "Masquerade"),
    (SourceNatMode.SNAT, "An address or pool"),
    (SourceNatMode.NONE, "None"),
]
PERSISTENCES: Choices = [(PersistenceMode.NONE, "None"), (PersistenceMode.SOURCE, "By client address")]
HEALTH_KINDS: Choices = [
    (HealthKind.NONE, "None"),
    (HealthKind.TCP, "TCP"),
    (HealthKind.HTTP, "HTTP"),
    (HealthKind.HTTPS, "HTTPS"),
    (HealthKind.UDP, "UDP"),
    (HealthKind.ICMP, "ICMP echo"),
    (HealthKind.PASSIVE, "Passive"),
]
ALL_DOWN: Choices = [
    (AllDown.KEEP, "Use all of them"),
    (AllDown.REFUSE, "Refuse new connections"),
    (AllDown.SERVICE, "Another service"),
]
HTTP_METHODS: Choices = [(method, str(method)) for method in HttpMethod]
BACKEND_STATES: Choices = [(state, str(state).capitalize()) for state in BackendState]

SCHEDULER_HELP = {
    Scheduler.ROUND_ROBIN: (
        "Round robin: strictly in turn, each as often as its weight says. On nodes with iptables-legacy every"
        " commit starts the turns anew. lbadmin begins at another backend each time, so that shares stay"
        " right on average, but the order does not: where commits are frequent, choose random there."
    ),
    Scheduler.RANDOM: (
        "Random: by chance, in proportion to the weights. Right on average, whatever is committed."
    ),
    Scheduler.SOURCE_HASH: (
        "Source hash: the client's address alone decides, on every node alike, so that a client stays with"
        " its backend and nothing has to be remembered. When a backend goes, its clients move, and a few per"
        " cent of the others."
    ),
    Scheduler.FAILOVER: (
        "Failover: the enabled backends with the lowest priority number share all new connections by weight;"
        " the others stand by until none of those is left."
    ),
    Scheduler.LEAST_CONNECTIONS: (
        "Least connections: backends with fewer open connections than their weight says get more of the new"
        " ones. Each node counts its own and adjusts every ten seconds at most; a share stays between a"
        " fourth and four times of the declared one."
    ),
}
SOURCE_NAT_HELP = {
    SourceNatMode.MASQUERADE: (
        "Masquerade: backends see the node's own address, so that answers always find back."
    ),
    SourceNatMode.SNAT: (
        "An address or pool: backends see an address that you name; it must lead back to the node."
    ),
    SourceNatMode.NONE: (
        "None: backends see the client's own address, and their answers must go back through the node that"
        " sent them the connection."
    ),
}
PERSISTENCE_HELP = {
    PersistenceMode.NONE: "None: the scheduler decides for each new connection.",
    PersistenceMode.SOURCE: (
        "By client address: a client keeps its backend for the timeout after its last new connection. Each"
        " node remembers the clients that it has seen."
    ),
}
HEALTH_HELP = {
    HealthKind.NONE: "None: every enabled backend gets connections, whether it answers or not.",
    HealthKind.TCP: (
        "TCP: a backend is good if it accepts a connection. One that accepts and then never answers is not"
        " found; HTTP finds it."
    ),
    HealthKind.HTTP: "HTTP: a backend is good if its answer has an expected status, and the expected text.",
    HealthKind.HTTPS: "HTTPS: as HTTP, over TLS. A certificate that soon expires is warned of.",
    HealthKind.UDP: (
        "UDP: sends a packet. With an expected answer, that must come; without one, only a refusal (ICMP port"
        " unreachable) is a failure."
    ),
    HealthKind.ICMP: "ICMP echo: the backend's machine answers a ping. The program on it is not asked.",
    HealthKind.PASSIVE: (
        "Passive: nothing is sent. A backend that lets clients' connections time out or resets them, and"
        " completes none, is taken out, and tried again after a time that grows with each failure."
    ),
}


ALL_DOWN_HELP = {
    AllDown.KEEP: (
        "Use all of them: every enabled backend gets connections as if there were no checks, for if all fail"
        " at once, the checks are the likelier cause."
    ),
    AllDown.REFUSE: "Refuse new connections: clients are told at once, and can go elsewhere.",
    AllDown.SERVICE: (
        "Another service: its backends get the connections, each with what that service says of scheduler,"
        " persistence and source address."
    ),
}


class Choice(forms.ChoiceField):
    """A choice whose help is that of what is chosen; without JavaScript all of it is shown."""

    def __init__(self, *, choices: Choices, helps: dict[Any, str] | None = None, **kwargs: Any) -> None:
        self.helps = {str(value): text for value, text in (helps or {}).items()}
        widget = UnfoldAdminSelectWidget(attrs=kwargs.pop("attrs", {}))
        super().__init__(choices=choices, widget=widget, **kwargs)


def chooser(name: str, *, choices: Choices, helps: dict[Any, str], **kwargs: Any) -> Choice:
    """One on whose value other fields depend: those with `data-chosen-by` of its name."""
    attrs = {"data-chooses": name, "aria-describedby": f"id_{name}_helptext"}
    return Choice(choices=choices, helps=helps, attrs=attrs, **kwargs)
