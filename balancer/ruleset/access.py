"""Who may begin a connection to a service: the chains that refuse, each reason in one rule of its own.

nat     LB-S-<service>  first sends whom it refuses to LB-A-<service>:<reason>, which counts and maybe logs,
                        and on to LB-DENIED: marked, and on to the filter table without DNAT.
                        What begins no connection goes to LB-UNKNOWN instead, which has the filter table
                        reset whoever seems to be in the middle of one
mangle  LB-LIMITS       with limits of connections: finds the service behind DNAT, by where the client sent
                        its first packet; LB-C-<service> counts and drops

What LB-A- and LB-C- hold follows from the access rules alone, so that no other change starts their counters
anew. The conditions are in LB-S- itself: a jump would cost every new connection as much as half a list.
"""

from collections.abc import Iterable
from dataclasses import replace

from balancer.domain.limits import BITS, SOURCE_BITS, burst_of, rate_of_kernel
from balancer.domain.types import Network, PortRange, Protocol, Service
from balancer.ruleset import marks, names
from balancer.ruleset.dispatch import dispatch
from balancer.ruleset.ir import (
    ACK,
    AtMost,
    Faster,
    Listed,
    MoreThan,
    Original,
    Rule,
    Ruleset,
    Table,
    TableName,
)
from balancer.ruleset.networks import make_list
from balancer.ruleset.reasons import Reason, reason_of
from balancer.ruleset.targets import Accept, Drop, Goto, Jump, Log, Mark, Return, SetConnMark, Target

Chains = dict[str, tuple[Rule, ...]]

LOGGED = AtMost(per_second=1, burst=10)
"""Lines for each service and reason."""
_OF_SOMEBODY = {
    Reason.DENIED,
    Reason.NOT_ALLOWED,
    Reason.RATE,
    Reason.CONNECTIONS,
    Reason.BACKEND_FULL,
}
_JUMPS = (("FORWARD", names.LIMITS), ("INPUT", names.LIMITS))
"""INPUT: a backend may be an address of the node itself."""


def asks_access(service: Service) -> tuple[Rule, ...]:
    """The first rules of the service's own chain; none where nobody is refused."""
    access, found = service.access, []
    if access.deny:
        found.append((Reason.DENIED, Rule(listed=Listed(make_list(access.deny)[0]), target=Drop())))
    if access.allow:
        outside = Listed(make_list(access.allow)[0], outside=True)
        found.append((Reason.NOT_ALLOWED, Rule(listed=outside, target=Drop())))
    if access.drop_invalid and service.protocol is Protocol.TCP:
        # Behind the lists, whose clients get no answer, and before the rate, which counts what begins.
        found.append((Reason.NOT_SYN, Rule(protocol=Protocol.TCP, not_syn=True, target=Drop())))
    if access.new_per_second_per_source is not None:
        found.append((Reason.RATE, Rule(faster=_faster(service), target=Drop())))
    return tuple(
        replace(rule, target=Goto(names.refusal_chain(service.name, reason))) for reason, rule in found
    )


def access_chains(service: Service) -> Chains:
    """Of nat: a chain for each reason for which the service refuses, and what they share."""
    rules = asks_access(service)
    chains: Chains = {}
    for rule in rules:
        reason = reason_of(rule)
        assert reason is not None
        shared, refuse = (names.UNKNOWN, _UNKNOWN) if reason is Reason.NOT_SYN else (names.DENIED, _DENIED)
        chains |= {shared: refuse} | _refusal(service, reason, Goto(shared))
    return chains


def denies(services: Iterable[Service]) -> bool:
    """Whether connections can be marked as denied, so that the filter table has to drop them."""
    return any(asks_access(service) for service in services)


def drop_denied() -> Rule:
    return Rule(connmark=marks.DENIED, target=Drop())


def invalid_chains(service: Service) -> Chains:
    """Of filter: where INVALID packets are logged before they are dropped."""
    if not (service.access.drop_invalid and service.access.log_refused):
        return {}
    return _refusal(service, Reason.INVALID, Drop())


def invalid_target(service: Service) -> Target:
    if not service.access.drop_invalid:
        return Return()
    return Goto(names.refusal_chain(service.name, Reason.INVALID)) if service.access.log_refused else Drop()


def early_rules(service: Service) -> tuple[Rule, ...]:
    """Of filter, before a SYN proxy: who is in no list that lets him in need not even shake hands."""
    return tuple(rule for rule in asks_access(service) if rule.listed is not None)


def early_chains(service: Service) -> Chains:
    """Those to which `early_rules` lead."""
    chains: Chains = {}
    for rule in early_rules(service):
        reason = reason_of(rule)
        assert reason is not None
        chains |= _refusal(service, reason, Drop())
    return chains


def let_everybody_in(ruleset: Ruleset) -> Ruleset:
    """The ruleset without lists and limits: for clients who are nobody that a document knows."""
    tables = tuple(
        replace(
            table,
            chains={
                chain: tuple(rule for rule in rules if reason_of(rule) not in _OF_SOMEBODY)
                for chain, rules in table.chains.items()
            },
        )
        for table in ruleset.tables
    )
    return replace(ruleset, tables=tables, lists={})


def lists_of(services: Iterable[Service]) -> dict[str, tuple[Network, ...]]:
    """The lists that the chains of the services name, by name; services with equal ones share them."""
    found = {}
    for service in services:
        for networks in (service.access.allow, service.access.deny):
            if networks:
                name, kept = make_list(networks)
                found[name] = kept
    return dict(sorted(found.items()))


def limits_table(services: tuple[Service, ...]) -> Table | None:
    """Counts connections, for the services that limit them; None where none does.

    A table of its own: on iptables-legacy any commit to a table makes the kernel forget what it counted for
    it, and this one is committed only when limits, or the places of these services, change.
    """
    limited = [s for s in services if _limits(s)]
    if not limited:
        return None
    chains: Chains = {}
    near = tuple(s for s in services if any(_meet(s, other) for other in limited))
    for chain, rules in dispatch(near, root=names.LIMITED, target=_to_limits).items():
        chains[names.behind_dnat(chain)] = tuple(map(_behind_dnat, rules))
    for service in limited:
        limits = _limits(service)
        chains[names.limits_chain(service.name)] = tuple(limits)
        chains |= _logs_of_limits(service, limits)
    # Only what begins, and only what was sent to a backend, is looked up.
    balanced = Mark(marks.BALANCED, marks.BALANCED | marks.REFUSE)
    chains[names.LIMITS] = (Rule(ct_state="NEW", connmark=balanced, target=Jump(names.LIMITED)),)
    return Table(TableName.MANGLE, dict(sorted(chains.items())), _JUMPS)


def _faster(service: Service) -> Faster:
    rate, burst = rate_of_kernel(service.access.new_per_second_per_source or 1), burst_of(service.access)
    # Other numbers need another name: the kernel goes on counting by those under which it began.
    name = names.rate_name(f"{service.name} {rate} {burst}")
    return Faster(name, rate, burst, SOURCE_BITS[service.family])


def limits_connections(service: Service) -> bool:
    """Whether some are dropped that a backend was chosen for."""
    return bool(_limits(service))


def _limits(service: Service) -> list[Rule]:
    access, rules = service.access, []
    if access.connections_per_source is not None:
        limit = MoreThan(access.connections_per_source, SOURCE_BITS[service.family])
        rules.append(Rule(protocol=service.protocol, more_than=limit, target=Drop()))
    if access.connections_per_backend is not None:
        full = MoreThan(access.connections_per_backend, BITS[service.family], of_destination=True)
        rules += [
            Rule(protocol=service.protocol, destination_ports=ports, more_than=full, target=Drop())
            for ports in _told_apart_by(service)
        ]
    return [_logging(service, rule) for rule in rules]


def _told_apart_by(service: Service) -> tuple[PortRange | None, ...]:
    """The ports of backends whose connections are counted apart: by address alone where that is enough."""
    addresses = {backend.address for backend in service.backends}
    if len(addresses) == len(service.backends):
        return (None,)
    return tuple(PortRange(port, port) for port in sorted({backend.port for backend in service.backends}))


def _logging(service: Service, rule: Rule) -> Rule:
    """With the log before the drop where the service wants it."""
    reason = reason_of(rule)
    assert reason is not None
    logged = Goto(names.refusal_chain(service.name, reason))
    return replace(rule, target=logged) if service.access.log_refused else rule


def _logs_of_limits(service: Service, rules: list[Rule]) -> Chains:
    if not service.access.log_refused:
        return {}
    chains: Chains = {}
    for reason in (Reason.CONNECTIONS, Reason.BACKEND_FULL):
        if any(reason_of(rule) is reason for rule in rules):
            chains |= _refusal(service, reason, Drop())
    return chains


def _refusal(service: Service, reason: Reason, then: Target) -> Chains:
    """Its last rule counts; the one before, if any, logs."""
    log = Rule(at_most=LOGGED, target=Log(names.log_prefix(service.name, reason)))
    before = (log,) if service.access.log_refused else ()
    return {names.refusal_chain(service.name, reason): (*before, Rule(target=then))}


_DENIED = (Rule(target=SetConnMark(marks.DENIED)), Rule(target=Accept()))
_UNKNOWN = (
    Rule(target=SetConnMark(marks.DENIED)),
    # As any host answers that has no such connection (RFC 9293 3.10.7.1), so that the client connects anew.
    Rule(protocol=Protocol.TCP, tcp_flags=ACK, target=SetConnMark(marks.REFUSED)),
    Rule(target=Accept()),
)


def _meet(one: Service, other: Service) -> bool:
    """Whether their ports overlap: then one's place may be inside of the other's."""
    return one.protocol is other.protocol and any(
        a.overlaps(b) for a in one.port_ranges for b in other.port_ranges
    )


def _to_limits(service: Service) -> Target:
    return Goto(names.limits_chain(service.name)) if _limits(service) else Return()


def _behind_dnat(rule: Rule) -> Rule:
    """The rule of a tree that is asked of original destinations instead of those in the packet.

    Whether that was an address of the node need not be asked again: only what was balanced gets here.
    """
    target = Goto(names.behind_dnat(rule.target.chain)) if isinstance(rule.target, Goto) else rule.target
    original = None
    if rule.destination is not None or rule.destination_ports is not None:
        original = Original(rule.destination, rule.destination_ports)
    return replace(
        rule,
        target=target,
        destination=None,
        destination_ports=None,
        destination_local=False,
        original=original,
    )
