"""Which source a backend sees, and what becomes of connections from the backends and from the node itself."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from balancer.domain.types import Family, Protocol
from tests.kernel.behaviours.lab import Flow, Lab, by_backend
from tests.kernel.behaviours.machines import INTERFACES, LAN
from tests.kernel.behaviours.packets import Seen
from tests.kernel.behaviours.services import FROM_NODE, HAIRPIN, HAIRPIN_NONE, NONE, POOL, REFUSED, SNAT

UDP = Protocol.UDP


def sources_seen(seen: list[Seen | None]) -> list[str]:
    assert all(one is not None and not one.refusal for one in seen)
    return [str(one.source) for one in seen if one is not None]


def test_masquerade_shows_backends_the_address_of_the_node(lab: Lab) -> None:
    assert set(sources_seen(lab.open(UDP, HAIRPIN, lab.sources(20)))) == {lab.places.inside}


def test_source_nat_to_an_address_shows_backends_that_address(lab: Lab) -> None:
    assert set(sources_seen(lab.open(UDP, SNAT, lab.sources(20)))) == {lab.pool(1)}


def test_source_nat_to_a_pool_uses_all_of_its_addresses(lab: Lab) -> None:
    assert set(sources_seen(lab.open(UDP, POOL, lab.sources(60)))) == {lab.pool(2), lab.pool(3)}


def test_without_source_nat_backends_see_the_client(lab: Lab) -> None:
    clients = lab.sources(20)
    assert sources_seen(lab.open(UDP, NONE, clients)) == [str(client) for client in clients]


def test_only_balanced_connections_get_another_source(lab: Lab) -> None:
    """Those that the node merely forwards keep theirs, even to a backend and to the port of a service."""
    clients = lab.sources(5)
    for port in (HAIRPIN, SNAT, POOL, 7):
        seen = lab.open(UDP, port, clients, destination=lab.sink(1))
        assert sources_seen(seen) == [str(client) for client in clients]
        assert by_backend(seen) == {lab.sink(1): 5}


def test_a_backend_reaches_its_own_service_through_masquerade(lab: Lab) -> None:
    seen = lab.open(UDP, HAIRPIN, [ip_address(lab.sink(1))] * 4, interface=LAN)
    assert by_backend(seen) == {lab.sink(1): 2, lab.sink(2): 2}
    assert set(sources_seen(seen)) == {lab.places.inside}


def test_with_hairpin_a_backend_reaches_its_own_service_and_others_keep_their_source(lab: Lab) -> None:
    seen = lab.open(UDP, HAIRPIN_NONE, [ip_address(lab.sink(2))] * 4, interface=LAN)
    assert by_backend(seen) == {lab.sink(1): 2, lab.sink(2): 2}
    assert set(sources_seen(seen)) == {lab.places.inside}
    others = [ip_address(lab.sink(200)), *lab.sources(3)]
    assert sources_seen(lab.open(UDP, HAIRPIN_NONE, others, interface=LAN)) == [str(one) for one in others]


def from_node(lab: Lab, port: int, protocol: Protocol = UDP) -> list[Seen | None]:
    flow = Flow(
        protocol=protocol,
        source=ip_address(lab.places.inside),
        destination=ip_address(lab.own(1)),
        port=port,
        interface=None,
    )
    return lab.send([flow] * 4)


def test_what_the_node_itself_sends_is_balanced_where_the_service_says_so(lab: Lab) -> None:
    assert by_backend(from_node(lab, FROM_NODE)) == {lab.sink(1): 2, lab.sink(2): 2}
    assert all(one is None or one.refusal for one in from_node(lab, HAIRPIN)), "nobody listens on the node"


def test_a_program_on_the_node_talks_to_a_backend(lab: Lab) -> None:
    servers = [lab.listen(lab.live(number), FROM_NODE) for number in (1, 2)]
    clients = [lab.connect_from_node(lab.own(), FROM_NODE) for _ in servers]
    for server in servers:
        lab.keep(server.accept()[0]).sendall(b"hello")
    assert [client.recv(10) for client in clients] == [b"hello", b"hello"]


def test_the_loopback_address_stays_the_affair_of_the_node(lab: Lab) -> None:
    loopback = "127.0.0.1" if lab.family is Family.IPV4 else "::1"
    own = lab.listen_on_node(loopback, FROM_NODE)
    client = lab.connect_from_node(loopback, FROM_NODE)
    accepted, peer = own.accept()
    lab.keep(accepted).sendall(b"myself")
    assert client.recv(10) == b"myself"
    assert peer[0] == loopback


def test_a_service_without_backends_refuses_at_once(lab: Lab) -> None:
    for protocol in Protocol:
        seen = lab.open(protocol, REFUSED, lab.sources(5))
        assert [one is not None and one.refusal for one in seen] == [True] * 5
    other = lab.open(Protocol.TCP, REFUSED, lab.sources(2), interface=INTERFACES[1])
    assert other == [None, None], "the refusal is for the interface of the service"


def syns_again(lab: Lab) -> int:
    """SYNs that the node sent once more."""
    with lab.inside_node():
        lines = Path("/proc/thread-self/net/netstat").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(dict(zip(names, values, strict=True))["TCPSynRetrans"])


def test_a_service_without_backends_refuses_the_node_itself_at_once(lab: Lab) -> None:
    before = syns_again(lab)
    with pytest.raises(ConnectionRefusedError):
        lab.connect_from_node(lab.own(), REFUSED)
    assert syns_again(lab) == before, "TCP asks again after a second"
    for protocol in Protocol:
        assert [one is not None and one.refusal for one in from_node(lab, REFUSED, protocol)] == [True] * 4
