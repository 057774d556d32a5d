"""A way by which the lab's backends come in by an interface for clients, as those of a real network may."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from balancer.domain.types import Address, Family
from balancer.lab.namespaces import run_ip, wait_for_links
from balancer.lab.topology import Lab

_HOST = 253
"""Of the interface's segment."""


@contextmanager
def side_door(*, lab: Lab, interface: str, balancer: str, served: Sequence[Address]) -> Iterator[None]:
    """Meanwhile the backends reach `served`, addresses of a balancer, through its `interface`."""
    topology = lab.topology
    number = topology.segments.index(interface)
    link, bridge = f"side{number}", f"seg{number}"
    client, backends = topology.client, topology.backend
    setup = [f"address add {topology.segment(interface)[_HOST]}/24 dev {link}"]
    if topology.ipv6 is not None:
        setup.append(f"address add {topology.segment_ipv6(interface)[_HOST]}/64 dev {link} nodad")
    setup.append(f"link set {link} up")
    own = {family: lab.address(balancer=balancer, interface=interface, family=family) for family in _of(lab)}
    routes = [
        f"route replace {address}/{address.max_prefixlen} via {way} dev {link}"
        for address in served
        if address != (way := own[Family.IPV6 if address.version == 6 else Family.IPV4])
    ]
    run_ip(arguments=["-n", client, "link", "add", link, "type", "veth", "peer", link, "netns", backends])
    try:
        _batch(backends, setup)
        _batch(client, [f"link set {link} up"])
        wait_for_links(name=client)
        # As a port of the bridge it forwards at once, its link being up already.
        _batch(client, [f"link set {link} master {bridge}"])
        _batch(backends, routes)
        yield
    finally:
        run_ip(arguments=["-n", client, "link", "delete", link])


def _of(lab: Lab) -> tuple[Family, ...]:
    return (Family.IPV4,) if lab.topology.ipv6 is None else tuple(Family)


def _batch(namespace: str, lines: Sequence[str]) -> None:
    run_ip(arguments=["-n", namespace, "-batch", "-"], text="".join(f"{line}\n" for line in lines))
