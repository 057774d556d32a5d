"""A service with a SYN proxy; floods and malformed packets are in tests/kernel/attacks."""

import select
import socket

from balancer.domain.types import Protocol
from tests.kernel.behaviours.lab import Lab
from tests.kernel.behaviours.services import PROXIED, PROXIED_SINKS, services


def served(lab: Lab, count: int) -> list[tuple[socket.socket, socket.socket]]:
    """(client, server) of so many connections, one after the other."""
    listeners = [lab.listen(lab.live(number), PROXIED) for number in (1, 2)]
    pairs = []
    for number in range(count):
        client = lab.connect(lab.own(), PROXIED, source=lab.source(number))
        client.sendall(b"ask")  # a client is connected as soon as the proxy has answered
        ready, _, _ = select.select(listeners, [], [], 30)
        server = ready[0].accept()[0]
        assert server.recv(3) == b"ask"
        pairs.append((client, lab.keep(server)))
    return pairs


def talk(client: socket.socket, server: socket.socket) -> None:
    server.settimeout(30)
    for near, far in ((client, server), (server, client)):
        near.sendall(b"more")
        assert far.recv(4) == b"more"


def test_a_syn_alone_passes_no_syn_proxy(lab: Lab) -> None:
    assert lab.open(Protocol.TCP, PROXIED_SINKS, lab.strangers(20)) == [None] * 20


def test_clients_of_a_syn_proxy_reach_its_backends_in_turn(lab: Lab) -> None:
    pairs = served(lab, 4)
    for client, server in pairs:
        talk(client, server)
    backends = [server.getsockname()[0] for _, server in pairs]
    assert sorted(backends) == sorted([lab.live(1), lab.live(2)] * 2)


def test_connections_live_on_when_a_syn_proxy_is_turned_off_and_on(lab: Lab) -> None:
    pairs = served(lab, 2)
    for access in ({"syn_proxy": False}, {"syn_proxy": True}):
        lab.carry(*services(lab, proxied={"access": access}))
        for client, server in pairs:
            talk(client, server)
