"""A service with a SYN proxy; floods and malformed packets are in tests/kernel/attacks."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from balancer.domain.types import Protocol
from tests.kernel.behaviours.lab import Lab, by_backend
from tests.kernel.behaviours.services import PROXIED, PROXIED_NONE, PROXIED_SINKS, PROXIED_SPARE, services
from tests.kernel.behaviours.stream import MUCH, carried
from tests.kernel.machine import Namespace

_TIMESTAMPS, _SACK, _SCALED = 1, 2, 4
"""tcpi_options of struct tcp_info (include/uapi/linux/tcp.h)."""


def served(
    lab: Lab, count: int, *, port: int = PROXIED, segment: int | None = None
) -> list[tuple[socket.socket, socket.socket]]:
    """(client, server) of so many connections, one after the other."""
    listeners = [lab.listen(lab.live(number), port) for number in (1, 2)]
    pairs = []
    for number in range(count):
        client = lab.connect(lab.own(), port, source=lab.source(number), segment=segment)
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


@contextmanager
def setting(namespace: Namespace, name: str, value: int) -> Iterator[None]:
    path = Path("/proc/sys", name)
    with namespace.entered():
        before = path.read_text()
        path.write_text(str(value))
    try:
        yield
    finally:
        with namespace.entered():
            path.write_text(before)


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


def test_a_syn_proxy_answers_for_addresses_of_the_node_alone(lab: Lab) -> None:
    """Though the service is for any of them: what goes through to somebody else goes on."""
    seen = lab.open(Protocol.TCP, PROXIED_SINKS, lab.strangers(4), destination=lab.sink(7))
    assert by_backend(seen) == {lab.sink(7): 4}


def test_much_data_goes_through_a_syn_proxy_both_ways_with_and_without_timestamps(lab: Lab) -> None:
    """Without them a cookie has no room for SACK and the scale of windows: small windows have to do."""
    for timestamps, wanted in ((1, _TIMESTAMPS | _SACK | _SCALED), (0, 0)):
        with setting(lab.client, "net/ipv4/tcp_timestamps", timestamps):
            ((client, server),) = served(lab, 1)
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & 7 == wanted
        server.settimeout(5)
        assert [carried(client, server), carried(server, client)] == [MUCH, MUCH]
        lab.hang_up()


def test_behind_a_syn_proxy_a_backend_sends_no_larger_segments_than_the_client_takes(lab: Lab) -> None:
    ((client, server),) = served(lab, 1, segment=1300)
    assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1300
    assert carried(server, client) == MUCH


def test_a_syn_proxy_gives_the_next_backend_where_one_failed_and_refuses_at_once_where_none_is_left(
    lab: Lab,
) -> None:
    ((client, server),) = served(lab, 1, port=PROXIED_SPARE)
    assert server.getsockname()[0] == lab.live(2)
    talk(client, server)
    with pytest.raises(ConnectionRefusedError):
        lab.connect(lab.own(), PROXIED_NONE)
