"""The SYN proxy: a client gets a connection to a backend only once it has shown that it is there.

raw     PREROUTING  a SYN to a proxied service is kept from connection tracking
filter  INPUT and FORWARD  SYNPROXY answers it with a cookie, and the client's ACK, which belongs to no known
                    connection, with a SYN of its own, from the client's address to the service
nat     OUTPUT      where that SYN is given its backend, as a client's own would be in PREROUTING
mangle  OUTPUT      the proxy's ACK to the backend loses its timestamps: the kernel writes a wrong one into it

docs/design/ruleset.md, "SYN proxy".
"""

from collections import defaultdict
from collections.abc import Iterable

from balancer.domain.types import Family, Protocol, Service
from balancer.ruleset import access, marks, names
from balancer.ruleset.dispatch import dispatch, dispatch_from_node
from balancer.ruleset.ir import ACK, NO_SYN, SYN, Rule, Table, TableName
from balancer.ruleset.schedulers import choose
from balancer.ruleset.targets import (
    Accept,
    Goto,
    Jump,
    LimitSegments,
    Mark,
    NoTrack,
    Return,
    StripTimestamps,
    SynProxy,
    Target,
)

Chains = dict[str, tuple[Rule, ...]]

MSS = {Family.IPV4: 1460, Family.IPV6: 1440}
MOST = 1220
"""Bytes of a segment that a backend sends: they fit into the narrowest link of IPv6 (RFC 8200), and into what
tunnels leave of IPv4. Errors that say that a path is narrower do not come through to it: the kernel does not
change back the sequence numbers that they quote."""
_LABEL = ":syn:"
"""Not the beginning of an interface's name."""
_PORTS = 65536


def is_proxied(service: Service) -> bool:
    """A service that has nobody to send a connection to refuses it at once instead."""
    return service.access.syn_proxy and choose(service) is not None


def raw_table(services: tuple[Service, ...]) -> Table | None:
    """None where no service has a proxy: an empty table raw would still cost every packet something."""
    near = _near(services)
    if not near:
        return None
    chains = dispatch(near, root=names.SYN, target=lambda s: NoTrack() if is_proxied(s) else Return())
    chains[names.PREROUTING] = (Rule(protocol=Protocol.TCP, tcp_flags=SYN, target=Jump(names.SYN)),)
    return Table(TableName.RAW, dict(sorted(chains.items())), (("PREROUTING", names.PREROUTING),))


def mangle_table(services: tuple[Service, ...]) -> Table | None:
    """The proxy's ACK echoes a timestamp that the kernel has adjusted once too often (nf_synproxy_core.c).

    Since Linux 6.15 (3ba075278c11) a server takes no such ACK, and now and then a connection waited for more
    than a second, until the server repeated its part. Without a timestamp the ACK is taken.
    """
    if not any(service.access.syn_proxy for service in services):
        return None  # by what is configured: backends that fail must not commit this table
    own = Rule(
        protocol=Protocol.TCP,
        tcp_flags=ACK,
        source_elsewhere=True,
        ct_state="DNAT",
        connmark=Mark(marks.BALANCED, marks.BALANCED),
        target=StripTimestamps(),
    )
    return Table(TableName.MANGLE, {names.OUTPUT: (own,)}, (("OUTPUT", names.OUTPUT),))


def proxy_chains(services: tuple[Service, ...]) -> Chains:
    """For the table filter."""
    near = _near(services)
    if not near:
        return {}
    chains = dispatch(near, root=names.SYN, target=_proxy, label=_LABEL)
    for service in filter(is_proxied, near):
        if early := access.early_rules(service):
            own = Rule(protocol=Protocol.TCP, target=SynProxy(MSS[service.family]))
            chains[names.proxy_chain(service.name)] = (*early, own)
            chains |= access.early_chains(service)
    return chains


def proxy_jumps() -> tuple[Rule, ...]:
    """Into `proxy_chains`, from where packets to the node or through it come by.

    An ACK that belongs to no connection is INVALID, or NEW where net.netfilter.nf_conntrack_tcp_loose is on.
    """
    return (
        Rule(protocol=Protocol.TCP, ct_state="INVALID,UNTRACKED", target=Jump(names.SYN)),
        Rule(protocol=Protocol.TCP, tcp_flags=NO_SYN, ct_state="NEW", target=Jump(names.SYN)),
    )


def output_chains(services: tuple[Service, ...]) -> Chains:
    """For nat: what leads the proxy's own SYN to its service. The source is the client's, not the node's."""
    proxied = [service for service in services if is_proxied(service)]
    if not proxied:
        return {}
    return dispatch_from_node(proxied, root=names.PROXIED, target=_to_service, label=_LABEL)


def output_jump() -> Rule:
    return Rule(protocol=Protocol.TCP, source_elsewhere=True, target=Goto(names.PROXIED))


def not_yet(service: Service) -> tuple[Rule, ...]:
    """First in the chain of a proxied service: the client's ACK gets no backend, but goes on to the proxy.

    What gets further is the proxy's own SYN.
    """
    if not is_proxied(service):
        return ()
    return (
        Rule(protocol=Protocol.TCP, tcp_flags=NO_SYN, target=Accept()),
        Rule(protocol=Protocol.TCP, tcp_flags=SYN, target=LimitSegments(MOST)),
    )


def _to_service(service: Service) -> Target:
    return Goto(names.service_chain(service.name))


def _proxy(service: Service) -> Target:
    if not is_proxied(service):
        return Return()
    if access.early_rules(service):
        return Goto(names.proxy_chain(service.name))
    return SynProxy(MSS[service.family])


def _near(services: tuple[Service, ...]) -> tuple[Service, ...]:
    """Proxied services, and those that are found inside of one because it takes any address."""
    proxied = [service for service in services if is_proxied(service)]
    taken: dict[str, bytearray] = defaultdict(lambda: bytearray(_PORTS))
    for service in proxied:
        if not service.addresses:
            _take(service, taken)
    return tuple(s for s in services if is_proxied(s) or _is_inside(s, taken))


def _take(service: Service, taken: dict[str, bytearray]) -> None:
    for interface in service.interfaces:
        for ports in service.port_ranges:
            taken[interface][ports.first : ports.last + 1] = b"\1" * (ports.last + 1 - ports.first)


def _is_inside(service: Service, taken: dict[str, bytearray]) -> bool:
    return service.protocol is Protocol.TCP and any(
        taken[interface].find(1, ports.first, ports.last + 1) >= 0
        for interface in _known(service.interfaces, taken)
        for ports in service.port_ranges
    )


def _known(interfaces: Iterable[str], taken: dict[str, bytearray]) -> list[str]:
    return [interface for interface in interfaces if interface in taken]
