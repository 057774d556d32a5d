"""The commands that make the machines of a lab. Pure: nothing runs here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from balancer.lab.ipv6 import Ipv6, ipv6_sysctls
from balancer.lab.machines import Balancer, Topology

_CLIENT_HOST = 254


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    links: tuple[str, ...]
    """`ip -batch` lines that make every link inside the namespaces, none in the caller's own."""
    sysctls: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Namespace -> (key, value), written before the links exist so that each link inherits them."""
    setup: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Namespace -> `ip -n NAMESPACE -batch` lines."""


def plan_lab(topology: Topology) -> Plan:
    setup = {
        topology.client: _client_setup(topology),
        topology.backend: _backends_setup(topology),
    } | {topology.namespace(b.name): _balancer_setup(topology, b) for b in topology.balancers}
    forwarding = {topology.namespace(b.name): b.forwarding for b in topology.balancers}
    sysctls = {name: _sysctls(forwarding=forwarding.get(name, False)) for name in topology.namespaces}
    if topology.ipv6 is not None:
        more = plan_ipv6(topology, topology.ipv6)
        setup = {name: (*lines, *more[name]) for name, lines in setup.items()}
        sysctls = {
            name: (*lines, *ipv6_sysctls(forwarding=forwarding.get(name, False)))
            for name, lines in sysctls.items()
        }
    return Plan(links=_links(topology), sysctls=sysctls, setup=setup)


def plan_ipv6(topology: Topology, ipv6: Ipv6) -> dict[str, tuple[str, ...]]:
    """What each namespace gets besides, once its links are up.

    The client speaks from, and the router's machine answers at, any address that is routed to its loopback,
    as in IPv4. Neighbours are only told of addresses that an interface has, so that what is asked for on a
    link (gateways, the balancers' own and the services' addresses) is on an interface.
    """
    client, backends = [], [f"address add {ipv6.router}/64 dev lan nodad"]
    for k, interface in enumerate(topology.segments):
        client.append(f"address add {topology.segment_ipv6(interface)[_CLIENT_HOST]}/64 dev seg{k} nodad")
    plans = {}
    for balancer in topology.balancers:
        ways = {name: topology.address_ipv6(balancer.name, name) for name in balancer.interfaces}
        lan = topology.address_ipv6(balancer.name, balancer.lan_interface)
        served = [(name, a) for name, a in balancer.addresses if a.version == 6]
        client.append(f"route add {lan}/128 via {ways[balancer.interfaces[0]]}")
        client += [f"route add {address}/128 via {ways[name]}" for name, address in served]
        plans[topology.namespace(balancer.name)] = (
            *(f"address add {address}/64 dev {name} nodad" for name, address in ways.items()),
            *(f"address add {address}/128 dev {name} nodad" for name, address in served),
            f"address add {lan}/64 dev {balancer.lan_interface} nodad",
            f"route add default via {topology.segment_ipv6(balancer.interfaces[0])[_CLIENT_HOST]}",
            *(f"route add {network} via {ipv6.router}" for network in ipv6.backends),
        )
    gateway = topology.gateway_balancer
    client.append(f"route add local {ipv6.clients} dev lo")
    client.append(f"route add default via {topology.address_ipv6(gateway.name, gateway.interfaces[0])}")
    backends += [f"route add local {network} dev lo" for network in ipv6.backends]
    backends.append(f"route add default via {topology.address_ipv6(gateway.name, gateway.lan_interface)}")
    return plans | {topology.client: tuple(client), topology.backend: tuple(backends)}


def _sysctls(*, forwarding: bool) -> tuple[tuple[str, str], ...]:
    """What a new namespace takes over from the host's settings (net.core.devconf_inherit_init_net)."""
    return (
        # A worker that systemd keeps to the capabilities it needs may not take ports below 1024 otherwise.
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        # The client and the backends answer for addresses whose route is not the interface asked on.
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        # ARP is answered for any-address routes (0), and asked for with the link's own address (2), so
        # that a balancer does not learn one neighbour for each client address.
        ("net/ipv4/conf/all/arp_ignore", "0"),
        ("net/ipv4/conf/default/arp_ignore", "0"),
        ("net/ipv4/conf/all/arp_filter", "0"),
        ("net/ipv4/conf/default/arp_filter", "0"),
        ("net/ipv4/conf/all/arp_announce", "2"),
        ("net/ipv4/conf/default/arp_announce", "2"),
        ("net/ipv4/conf/all/ignore_routes_with_linkdown", "0"),
        ("net/ipv4/conf/default/ignore_routes_with_linkdown", "0"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv4/conf/default/accept_redirects", "0"),
        ("net/ipv4/ip_forward", "1" if forwarding else "0"),
    )


def _links(topology: Topology) -> tuple[str, ...]:
    client, backends = topology.client, topology.backend
    lines = [f"link add seg{k} netns {client} type bridge" for k in range(len(topology.segments))]
    lines.append(f"link add lan netns {backends} type bridge")
    for balancer in topology.balancers:
        inside = topology.namespace(balancer.name)
        for interface in balancer.interfaces:
            port = _client_port(topology, balancer, interface)
            lines.append(f"link add {interface} netns {inside} type veth peer name {port} netns {client}")
        port = _lan_port(topology, balancer)
        lines.append(
            f"link add {balancer.lan_interface} netns {inside} type veth peer name {port} netns {backends}"
        )
    return tuple(lines)


def _client_setup(topology: Topology) -> tuple[str, ...]:
    lines = ["link set lo up"]
    for k, interface in enumerate(topology.segments):
        lines += [
            f"address add {topology.segment(interface)[_CLIENT_HOST]}/24 dev seg{k}",
            f"link set seg{k} up",
        ]
        owners = [b for b in topology.balancers if interface in b.interfaces]
        ports = [_client_port(topology, owner, interface) for owner in owners]
        lines += [f"link set {port} master seg{k} up" for port in ports]
    for balancer in topology.balancers:
        first = topology.address(balancer.name, balancer.interfaces[0])
        lines.append(f"route add {balancer.lan_address}/32 via {first}")
        lines += [
            f"route add {address}/32 via {topology.address(balancer.name, interface)}"
            for interface, address in balancer.addresses
            if address.version == 4
        ]
    gateway = topology.gateway_balancer
    return (
        *lines,
        f"route add local {topology.clients} dev lo",
        f"route add default via {topology.address(gateway.name, gateway.interfaces[0])}",
    )


def _balancer_setup(topology: Topology, balancer: Balancer) -> tuple[str, ...]:
    lines = ["link set lo up"]
    for interface in balancer.interfaces:
        lines += [
            f"address add {topology.address(balancer.name, interface)}/24 dev {interface}",
            f"link set {interface} up",
        ]
    lines += [
        f"address add {address}/32 dev {interface}"
        for interface, address in balancer.addresses
        if address.version == 4
    ]
    lines += [
        f"address add {balancer.lan_address}/{topology.lan.prefixlen} dev {balancer.lan_interface}",
        f"link set {balancer.lan_interface} up",
        f"route add default via {topology.segment(balancer.interfaces[0])[_CLIENT_HOST]}",
    ]
    remote = [network for network in topology.backends if not network.subnet_of(topology.lan)]
    way = f"dev {balancer.lan_interface} scope link" if topology.router is None else f"via {topology.router}"
    return (*lines, *(f"route add {network} {way}" for network in remote))


def _backends_setup(topology: Topology) -> tuple[str, ...]:
    ports = [_lan_port(topology, balancer) for balancer in topology.balancers]
    balancers = [b.lan_address for b in topology.balancers]
    return (
        "link set lo up",
        "link set lan up",
        *(f"link set {port} master lan up" for port in ports),
        f"route add {topology.lan} dev lan scope link",
        *([] if topology.router is None else [f"route add local {topology.router} dev lo"]),
        *(f"route add local {network} dev lo" for network in topology.backends),
        # A backend network may hold the balancers' addresses; the longer prefix keeps them outside.
        *(f"route add unicast {address}/32 dev lan scope link table local" for address in balancers),
        f"route add default via {topology.gateway_balancer.lan_address} dev lan",
    )


def _client_port(topology: Topology, balancer: Balancer, interface: str) -> str:
    return f"p{topology.balancers.index(balancer)}-{topology.segments.index(interface)}"


def _lan_port(topology: Topology, balancer: Balancer) -> str:
    return f"p{topology.balancers.index(balancer)}"
