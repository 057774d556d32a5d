"""Packets of backends that connection tracking calls INVALID, and so does not translate back."""

import socket
from ipaddress import ip_address

from balancer.domain.types import Family
from balancer.ruleset.reasons import Reason
from tests.kernel.attacks.craft import ACK, PSH, RST, SYN, TCP, Path, ip, tcp
from tests.kernel.behaviours.lab import Lab
from tests.kernel.behaviours.machines import LAN
from tests.kernel.behaviours.services import FILTERED_NONE, TALK, services
from tests.kernel.behaviours.test_filtering import counted

FAR = 1 << 30
"""Bytes beside of what is expected."""


def segment_of_backend(lab: Lab, client: socket.socket, server: socket.socket) -> bytes:
    """As the backend would send it, but that its number is far outside of the window."""
    wire = lab.wire(LAN)
    client.sendall(b"one")
    assert server.recv(3) == b"one"
    while not (packet := wire.recv(2048)).endswith(b"one"):
        pass
    head = head_of(lab)
    seq, ack = (int.from_bytes(packet[head + at : head + at + 4]) for at in (4, 8))
    (host, port, *_), (address, own, *_) = server.getpeername(), server.getsockname()
    path = Path(source=ip_address(address), destination=ip_address(host), source_port=own, port=port)
    return ip(
        path, TCP, tcp(path, PSH | ACK, seq=(ack + FAR) % 2**32, ack=(seq + 3) % 2**32, payload=b"late")
    )


def head_of(lab: Lab) -> int:
    """Bytes before the TCP header."""
    return 20 if lab.family is Family.IPV4 else 40


def is_reset(lab: Lab, packet: bytes, ports: set[int]) -> bool:
    """What else comes of a connection are acknowledgements, which are sent after a while."""
    head = head_of(lab)
    named = {int.from_bytes(packet[head + at : head + at + 2]) for at in (0, 2)}
    return bool(packet[head + 13] & RST) and not named.isdisjoint(ports)


def test_a_packet_of_a_backend_outside_of_the_window_resets_nobody(lab: Lab) -> None:
    """With masquerade the node would reset the backend, without source NAT the client."""
    lab.carry(*services(lab, talk={"backends": [{"address": lab.live(1)}]}))
    for name, port in (("talk", TALK), ("filtered-none", FILTERED_NONE)):
        listener = lab.listen(lab.live(1), port)
        client = lab.connect(lab.own(), port)
        server = lab.keep(listener.accept()[0])
        late = segment_of_backend(lab, client, server)
        before = counted(lab, name)[Reason.INVALID]
        ends = {client.getsockname()[1], server.getpeername()[1]}
        inside, back = lab.send_raw([late] * 3, interface=LAN)
        assert not any(is_reset(lab, packet, ends) for packet in inside + back)
        assert not any(packet.endswith(b"late") for packet in back)
        assert counted(lab, name)[Reason.INVALID] == before + 3
        for sender, receiver in ((client, server), (server, client)):
            sender.sendall(b"goes on")
            assert receiver.recv(20) == b"goes on"


def test_what_a_backend_answers_to_clients_that_came_another_way_is_passed_on(lab: Lab) -> None:
    """The node routes for the backend, and sees only half of such a connection."""
    path = Path(source=ip_address(lab.live(1)), destination=lab.source(9), source_port=TALK, port=40_000)
    for flags in (SYN | ACK, RST | ACK):
        packet = ip(path, TCP, tcp(path, flags, ack=77))
        _, back = lab.send_raw([packet], interface=LAN)
        assert [one[-20:-4] for one in back if len(one) == len(packet)] == [packet[-20:-4]]
