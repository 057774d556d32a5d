"""What a reviewer should know about the machines before a change: sentences made of values, nothing else.

Each warning has one function of a service before and after and of one node; `advise` asks them all.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from balancer.domain.limits import scheduled
from balancer.domain.observation import InputPath, InputRule, Listener
from balancer.domain.problem import Severity
from balancer.domain.types import Access, Address, Network, Protocol, Scheduler, Service, SourceNatMode

COMMITS_MANY = 10
"""Commits in 24 hours from which on a round robin that each of them restarts is not much of one."""
RULES_NAMED = 3
LEGACY = "legacy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChange:
    """A service as it is and as it would be; None where it is not there."""

    name: str
    before: Service | None
    after: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is known of a node. Whatever is not known is empty, and nothing is said about it."""

    name: str
    flavour: str = ""
    """legacy or nft."""
    addresses: tuple[tuple[str, Address], ...] = ()
    """(interface, address)."""
    networks: tuple[tuple[str, Network], ...] = ()
    """(interface, network that is directly on it)."""
    listeners: tuple[Listener, ...] = ()
    inputs: tuple[InputPath, ...] = ()
    recent_commits: int = 0
    """Syncs of the last 24 hours that wrote something."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Advice:
    """`code` is stable and short; `message` says what will happen and what to do about it."""

    service: str
    code: str
    node: str
    """Empty where it is about all of them."""
    message: str
    severity: Severity = Severity.WARNING


def advise(
    *,
    changes: Iterable[ServiceChange],
    machines: Iterable[Machine],
    management_ports: frozenset[int] = frozenset(),
) -> tuple[Advice, ...]:
    """All there is to say about services that the change leaves enabled; sorted by service, code, node."""
    known = sorted(machines, key=lambda machine: machine.name)
    return tuple(
        sorted(
            advice
            for change in changes
            if change.after is not None and change.after.enabled
            for advice in _advise_on(change, change.after, known, management_ports)
        )
    )


def _advise_on(
    change: ServiceChange, after: Service, machines: list[Machine], management_ports: frozenset[int]
) -> Iterator[Advice]:
    yield from warn_left_without_backends(change.before, after)
    yield from warn_input_policy(after, machines)
    for machine in machines:
        yield from warn_management_port(change.before, after, machine, ports=management_ports)
        yield from warn_own_listener(after, machine)
        yield from warn_input_bypassed(after, machine)
        yield from warn_nth_restarts(after, machine)
        yield from warn_backends_see_clients(after, machine)


def warn_left_without_backends(before: Service | None, after: Service) -> Iterator[Advice]:
    """Validation warns of every service without a usable backend; this is about one that had some."""
    if before is None or not before.enabled or after.usable_backends or not before.usable_backends:
        return
    message = (
        f"{after.name} takes new connections now, on {_count(before.usable_backends, 'backend')}; with"
        " this change it has none left and refuses every one of them. Keep a backend enabled, or disable"
        " the service if that is what is meant."
    )
    yield Advice(code="no-backend", service=after.name, node="", message=message)


def warn_management_port(
    before: Service | None, after: Service, machine: Machine, *, ports: frozenset[int]
) -> Iterator[Advice]:
    """A TCP port by which people reach the machine itself, if this change is what takes it away."""
    taken = [port for port in sorted(ports) if _captures(after, port, machine)]
    new = [port for port in taken if before is None or not _took(before, after, port, machine)]
    if not new:
        return
    message = (
        f"{_ports(new)} on {_list([*after.interfaces])} {_be(new)} how people reach {machine.name} itself."
        f" {after.name} would send those connections to its backends: you could lock yourselves out."
        " Choose another port, interface or address, or make sure that there is another way in."
    )
    yield Advice(code="management-port", service=after.name, node=machine.name, message=message)


def warn_own_listener(after: Service, machine: Machine) -> Iterator[Advice]:
    """A program of the machine itself listens where the service would take the packets."""
    found = [listener for listener in machine.listeners if listener.shares_endpoint_with(after)]
    if not found:
        return
    places = ", ".join(_place(listener) for listener in found)
    message = (
        f"A program on {machine.name} itself listens on {after.protocol} at {places}. What comes in on"
        f" {_list([*after.interfaces])} goes to the backends of {after.name} and no longer reaches that"
        " program. Move one of the two, or stop the program if nobody needs it."
    )
    yield Advice(code="own-listener", service=after.name, node=machine.name, message=message)


def warn_input_bypassed(after: Service, machine: Machine) -> Iterator[Advice]:
    """Rules in INPUT that could drop clients of the service, if its packets went through INPUT."""
    met = [
        rule
        for path in machine.inputs
        for rule in path.rules_against(after)[0]
        if not _is_refused(rule, after.access)
    ]
    if not met:
        return
    message = (
        f"{machine.name} has {_count(met, 'rule')} in INPUT that could be meant to protect"
        f" {_endpoint(after)}: {_name_rules(met)} Packets that {after.name} redirects go through FORWARD"
        f" and never meet INPUT. “Rules of INPUT” on the page of {after.name} drafts what its access lists"
        " can say instead; for the rest, put the rule (with DROP) into the chain PREROUTING of the table"
        " mangle: there packets still have the service's address and port."
    )
    yield Advice(code="input-bypassed", service=after.name, node=machine.name, message=message)


def warn_input_policy(after: Service, machines: Iterable[Machine]) -> Iterator[Advice]:
    """Once for a service, whatever number of nodes has the policy."""
    names = [m.name for m in machines if any(path.rules_against(after)[1] for path in m.inputs)]
    if not names:
        return
    message = (
        f"The policy of INPUT is DROP on {_list(names)} and no rule there opens {_endpoint(after)} to"
        f" everyone. That does not close it: packets that {after.name} redirects go through FORWARD, so"
        " the policy keeps nobody out."
    )
    yield Advice(code="input-policy", service=after.name, node="", message=message)


def warn_nth_restarts(after: Service, machine: Machine) -> Iterator[Advice]:
    """Any commit to an iptables-legacy table starts every nth counter of it anew.

    Each commit of ours begins the rounds elsewhere (`kernel.turning`), so that nobody is favoured by it.
    """
    if after.scheduler not in {Scheduler.ROUND_ROBIN, Scheduler.FAILOVER} or len(scheduled(after)) < 2:
        return
    if machine.flavour != LEGACY or machine.recent_commits <= COMMITS_MANY:
        return
    message = (
        f"{machine.name} uses iptables-legacy, where every commit starts the turns of round robin anew, and"
        f" it had {machine.recent_commits} commits in the last 24 hours. lbadmin begins at another backend"
        f" each time: the backends of {after.name} keep their shares on average, but they do not follow each"
        " other strictly in turn. If that matters, use nodes with nft; if not, the scheduler random does"
        " the same and no commit touches it."
    )
    yield Advice(code="nth-restarts", service=after.name, node=machine.name, message=message)


def warn_backends_see_clients(after: Service, machine: Machine) -> Iterator[Advice]:
    """Without another source address, answers find their way back only if the backends' routes lead here."""
    if after.source_nat.mode is not SourceNatMode.NONE or not after.backends:
        return
    message = (
        f"Backends of {after.name} see the client's own address, so their answers must go back through"
        f" {machine.name}: make it the gateway of the backends, or route the clients' networks to it."
    )
    sharper = "".join((*_far_backends(after, machine), *_near_clients(after, machine)))
    yield Advice(
        code="backends-see-clients", service=after.name, node=machine.name, message=message + sharper
    )


def _far_backends(service: Service, machine: Machine) -> Iterator[str]:
    """Backends that are on no network of the machine: other machines decide where their answers go."""
    if not machine.networks:
        return
    addresses = dict.fromkeys(backend.address for backend in service.backends)
    far = [
        str(address)
        for address in addresses
        if not any(address in network for _, network in machine.networks)
    ]
    if far:
        yield (
            f" {_some(far)} {_be(far)} on no network of {machine.name}: every router in between has to send"
            " the answers here, or masquerade is the safe choice."
        )


def _near_clients(service: Service, machine: Machine) -> Iterator[str]:
    """Networks from which clients may come and on which backends are: those answer past the machine."""
    shared = [
        f"{network} on {interface}"
        for interface, network in machine.networks
        if interface in service.interfaces and any(b.address in network for b in service.backends)
    ]
    if shared:
        yield (
            f" Clients in the network {_list(list(dict.fromkeys(shared)))} would get their answers straight"
            f" from a backend, past {machine.name}, and their connections would fail; masquerade helps them."
        )


def _is_refused(rule: InputRule, access: Access) -> bool:
    """The service refuses all of the rule's clients itself."""
    if rule.source is None:
        return False
    if any(rule.source.overlaps(net) and net.prefixlen <= rule.source.prefixlen for net in access.deny):
        return True
    return bool(access.allow) and not any(rule.source.overlaps(network) for network in access.allow)


def _captures(service: Service, port: int, machine: Machine) -> bool:
    own = {address for _, address in machine.addresses}
    return (
        service.enabled
        and service.protocol is Protocol.TCP
        and service.takes_port(port)
        and (not service.addresses or bool(own & set(service.addresses)))
    )


def _took(before: Service, after: Service, port: int, machine: Machine) -> bool:
    """Whether the port was lost already, for all the packets that would be lost now."""
    if not _captures(before, port, machine) or not set(after.interfaces) <= set(before.interfaces):
        return False
    return not before.addresses or (bool(after.addresses) and set(after.addresses) <= set(before.addresses))


def _some(names: list[str]) -> str:
    more = len(names) - RULES_NAMED
    return _list(names) if more <= 0 else f"{', '.join(names[:RULES_NAMED])} and {more} more"


def _name_rules(rules: list[InputRule]) -> str:
    named = "; ".join(f"“{rule.text}”" for rule in rules[:RULES_NAMED])
    more = len(rules) - RULES_NAMED
    return f"{named}, and {more} more." if more > 0 else f"{named}."


def _place(listener: Listener) -> str:
    where = "any address" if listener.address in {"*", "0.0.0.0", "::"} else listener.address
    return f"{where}, port {listener.port}"


def _endpoint(service: Service) -> str:
    ports = ", ".join(str(ports).replace("-", " to ") for ports in service.port_ranges)
    return f"{service.protocol} port {ports}"


def _ports(ports: list[int]) -> str:
    return f"Port {ports[0]}" if len(ports) == 1 else f"Ports {_list([str(port) for port in ports])}"


def _be(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _count(things: tuple[object, ...] | list[InputRule], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"
