"""Backends that leave: who has to move does so within two seconds, and nobody else notices."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from balancer.domain.types import Protocol, format_endpoint
from balancer.kernel.base import Receipt
from tests.kernel.behaviours.chat import Chat, Chatter
from tests.kernel.behaviours.lab import Lab, wait_for
from tests.kernel.behaviours.services import make, sinks
from tests.kernel.behaviours.test_surroundings import talk
from tests.stopwatch import Stopwatch

LEFT, OTHER, BACK = 5300, 5301, 5302
"""The service whose backend leaves, another one with the same backends, and their port."""
AT_MOST = 2.0
FEW = 10
"""Answers before anything happens."""
STEADY = 0.25
Ends = tuple[socket.socket, socket.socket]


def carry(
    lab: Lab, *states: str, deleted: bool = False, protocol: Protocol = Protocol.UDP, **fields: Any
) -> None:
    """Two services with the same backends; in the first they have these states."""
    found = [
        {"address": lab.live(number), "port": BACK, "state": state} for number, state in enumerate(states, 1)
    ]
    left = [backend for backend in found if backend["state"] != "removed"]
    stays = [{"address": lab.live(number), "port": BACK} for number in (1, 2)]
    first = make("left", LEFT, left, protocol=protocol.value, address=lab.own(), **fields)
    second = make("other", OTHER, stays, protocol=protocol.value, **fields)
    lab.carry(*(() if deleted else (first,)), second)


@contextmanager
def chatting(lab: Lab, *servers: socket.socket) -> Iterator[tuple[Chatter, list[Chatter]]]:
    """A client of the first backend, and three others: one of the second backend, and two of another service
    with the same backends."""
    backends = [lab.listen(lab.live(number), BACK, kind=socket.SOCK_DGRAM) for number in (1, 2)]
    carry(lab, "enabled", "enabled")
    sources, ports = lab.strangers(4), (LEFT, LEFT, OTHER, OTHER)
    clients = [lab.ask(lab.own(), port, source=who) for port, who in zip(ports, sources, strict=True)]
    with Chat(clients, [*backends, *servers]).going_on() as found:
        assert wait_for(lambda: all(len(one.answers) >= FEW for one in found))
        (first,) = [one for one in found[:2] if one.answered_by() == {lab.live(1)}]
        others = [one for one in found if one is not first]
        assert [one.answered_by() for one in others[:1]] == [{lab.live(2)}]
        assert {by for one in others[1:] for by in one.answered_by()} == {lab.live(1), lab.live(2)}
        yield first, others
        time.sleep(STEADY)


def move(lab: Lab, state: str) -> None:
    with chatting(lab) as (client, others):
        carry(lab, state, "enabled")
        done = time.monotonic()
        wait_for(lambda: client.waited(since=done) < AT_MOST)
    assert client.answered_by(since=done + AT_MOST / 10) == {lab.live(2)}
    assert client.silence < AT_MOST
    assert [one.lost for one in others] == [0, 0, 0]


def test_a_udp_client_is_answered_by_another_backend_within_two_seconds_when_its_own_is_removed(
    bare_lab: Lab,
) -> None:
    move(bare_lab, "removed")


def test_a_udp_client_is_answered_by_another_backend_within_two_seconds_when_its_own_is_disabled(
    bare_lab: Lab,
) -> None:
    move(bare_lab, "disabled")


def test_a_udp_client_is_refused_at_once_when_its_service_is_emptied_and_served_when_a_backend_is_back(
    bare_lab: Lab,
) -> None:
    with chatting(bare_lab) as (client, others):
        begun = time.monotonic()
        carry(bare_lab)
        wait_for(lambda: client.refused_after(begun) < AT_MOST)
        carry(bare_lab, "removed", "enabled")
        back = time.monotonic()
        wait_for(lambda: client.waited(since=back) < AT_MOST)
    assert client.refused_after(begun) < AT_MOST
    assert client.waited(since=back) < AT_MOST
    assert client.answered_by(since=back) == {bare_lab.live(2)}
    assert [one.lost for one in others[1:]] == [0, 0]


def test_a_udp_client_talks_to_the_node_itself_within_two_seconds_when_its_service_is_deleted(
    bare_lab: Lab,
) -> None:
    accept = ("INPUT", "-p", "udp", "--dport", str(LEFT), "-j", "ACCEPT")
    bare_lab.iptables("-I", *accept)
    try:
        own = bare_lab.listen_on_node(bare_lab.own(), LEFT, kind=socket.SOCK_DGRAM)
        with chatting(bare_lab, own) as (client, others):
            carry(bare_lab, deleted=True)
            done = time.monotonic()
            wait_for(lambda: client.waited(since=done) < AT_MOST)
        assert client.answered_by(since=done + AT_MOST / 10) == {bare_lab.own()}
        assert client.silence < AT_MOST
        assert [one.lost for one in others[1:]] == [0, 0]
    finally:
        bare_lab.iptables("-D", *accept)


def carry_every_protocol(lab: Lab, first: str) -> Receipt:
    backends = [{"address": lab.sink(1), "state": first}, {"address": lab.sink(2)}]
    receipt = lab.carry(
        *(make(protocol, LEFT, backends, protocol=protocol.value) for protocol in Protocol),
        make("other", OTHER, sinks(lab, 1)),
    )
    assert receipt is not None
    return receipt


def test_whoever_is_still_with_a_draining_backend_is_counted_of_every_protocol(bare_lab: Lab) -> None:
    lab = bare_lab
    carry_every_protocol(lab, "enabled")
    lab.forget_connections()
    for protocol in Protocol:
        lab.open(protocol, LEFT, lab.strangers(10))
    assert carry_every_protocol(lab, "draining").connections_removed == 0
    for protocol in Protocol:
        lab.open(protocol, LEFT, lab.strangers(4))
    first, second = (format_endpoint(address=ip_address(lab.sink(number)), port=LEFT) for number in (1, 2))
    assert lab.count_open(*Protocol) == {protocol: {first: 5, second: 9} for protocol in Protocol}


def test_disabling_a_backend_ends_what_it_has_of_every_protocol_and_nothing_else(bare_lab: Lab) -> None:
    lab = bare_lab
    carry_every_protocol(lab, "enabled")
    lab.forget_connections()
    for protocol in Protocol:
        lab.open(protocol, LEFT, lab.strangers(10))
    lab.open(Protocol.UDP, OTHER, lab.strangers(3))
    assert carry_every_protocol(lab, "disabled").connections_removed == 15
    second = format_endpoint(address=ip_address(lab.sink(2)), port=LEFT)
    assert lab.count_open(*Protocol) == {protocol: {second: 5} for protocol in Protocol}
    assert sum(lab.count_open("other")["other"].values()) == 3


def connections(lab: Lab, servers: list[socket.socket], port: int) -> dict[str, Ends]:
    """Backend address -> both ends of a connection to it."""
    found: dict[str, Ends] = {}
    for source in lab.strangers(2):
        client = lab.connect(lab.own(), port, source=source)
        ready, _, _ = select.select(servers, [], [], 30)
        server = lab.keep(ready[0].accept()[0])
        server.settimeout(30)
        found[server.getsockname()[0]] = client, server
        talk(client, server)
    return found


def test_disabling_a_backend_resets_its_connections_of_that_service_at_both_ends_and_no_others(
    bare_lab: Lab,
) -> None:
    for mode, proxy in (("masquerade", True), ("none", False)):
        cut(bare_lab, protocol=Protocol.TCP, source_nat={"mode": mode}, access={"syn_proxy": proxy})


def cut(lab: Lab, **fields: Any) -> None:
    first, second = lab.live(1), lab.live(2)
    servers = [lab.listen(address, BACK) for address in (first, second)]
    carry(lab, "enabled", "enabled", **fields)
    left, other = (connections(lab, servers, port) for port in (LEFT, OTHER))
    assert set(left) == set(other) == {first, second}

    carry(lab, "disabled", "enabled", **fields)

    watch = Stopwatch()
    for end in left[first]:
        with pytest.raises(ConnectionResetError):
            end.recv(10)
    assert watch.own < AT_MOST, "an end that only waits learns of it as well"
    for client, server in (left[second], *other.values()):
        talk(client, server)
    assert set(connections(lab, servers, LEFT)) == {second}
    lab.hang_up()
