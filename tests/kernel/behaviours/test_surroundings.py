"""Established connections, and rules of others on the same machine."""

import socket

from balancer.domain.types import Protocol
from tests.kernel.behaviours.lab import Lab, by_backend
from tests.kernel.behaviours.services import DOCKER, DRAINING, SAME, TALK, services
from tests.kernel.machine import foreign_part, load, save

UDP = Protocol.UDP


def talk(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    assert server.recv(20) == b"question"
    server.sendall(b"answer")
    assert client.recv(20) == b"answer"


def test_a_draining_backend_keeps_established_connections_and_gets_no_new_ones(lab: Lab) -> None:
    servers = [lab.listen(lab.live(number), DRAINING) for number in (1, 2)]
    clients = [lab.connect(lab.own(), DRAINING) for _ in servers]
    accepted = {server.getsockname()[0]: server.accept()[0] for server in servers}
    states = [{"address": lab.live(1), "state": "draining"}, {"address": lab.live(2)}]
    lab.carry(*services(lab, draining={"backends": states}))

    by_peer = {client.getsockname()[1]: client for client in clients}
    assert len(by_peer) == 2
    drained = accepted[lab.live(1)]
    drained.sendall(b"still here")
    assert any(is_readable(client) for client in clients)
    seen = lab.open(Protocol.TCP, DRAINING, lab.sources(6))
    assert by_backend(seen) == {lab.live(2): 6}


def is_readable(client: socket.socket) -> bool:
    client.settimeout(2)
    try:
        return client.recv(20) == b"still here"
    except TimeoutError:
        return False


def test_a_forward_policy_of_drop_lets_balanced_connections_through_both_ways(lab: Lab) -> None:
    servers = {number: lab.listen(lab.live(number), TALK) for number in (1, 2)}
    lab.iptables("-P", "FORWARD", "DROP")
    try:
        assert lab.open(UDP, 7, lab.sources(2), destination=lab.sink(1)) == [None, None]
        for server in servers.values():
            client = lab.connect(lab.own(), TALK)
            server.settimeout(5)
            ready = next(iter(s for s in servers.values() if has_caller(s)))
            talk(client, ready.accept()[0])
    finally:
        lab.iptables("-P", "FORWARD", "ACCEPT")


def has_caller(server: socket.socket) -> bool:
    import select

    return bool(select.select([server], [], [], 0.2)[0])


def docker(lab: Lab) -> str:
    """Rules as Docker makes them, in front of what is there."""
    to = f"[{lab.sink(240)}]:80" if ":" in lab.sink(240) else f"{lab.sink(240)}:80"
    return f"""\
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-I FORWARD -j DOCKER-FORWARD
-I FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
-A DOCKER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER
-A DOCKER -d {lab.sink(240)} -p udp -m udp --dport 80 -j ACCEPT
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s {lab.sink(240)} -j MASQUERADE
-A DOCKER -p udp -m udp --dport {DOCKER} -j DNAT --to-destination {to}
COMMIT
"""


def undocker(lab: Lab) -> str:
    lines = docker(lab).replace("-A ", "-D ").replace("-I ", "-D ").splitlines()
    chains = [f"-X {line[1:].split()[0]}" for line in lines if line.startswith(":")]
    tables = []
    for block in ("\n".join(lines)).split("COMMIT"):
        rules = [line for line in block.splitlines() if line and not line.startswith(":")]
        if rules:
            own = [chain for chain in chains if f":{chain[3:]} " in block]
            tables.append("\n".join([*rules, *own, "COMMIT", ""]))
    return "".join(tables)


def test_beside_docker_both_work_and_the_rules_of_docker_stay_as_they_are(lab: Lab) -> None:
    with lab.inside_node():
        load(lab.flavour, docker(lab), family=lab.family)
        before = foreign_part(save(lab.flavour, family=lab.family))
    lab.iptables("-P", "FORWARD", "DROP")
    try:
        lab.carry(*services(lab, same={"scheduler": "random"}))
        lab.carry(*services(lab))
        assert by_backend(lab.open(UDP, DOCKER, lab.sources(3))) == {lab.sink(240): 3}
        assert by_backend(lab.open(UDP, SAME, lab.sources(4))) == {lab.sink(1): 2, lab.sink(2): 2}
        lab.iptables("-P", "FORWARD", "ACCEPT")
        with lab.inside_node():
            assert foreign_part(save(lab.flavour, family=lab.family)) == before
    finally:
        lab.iptables("-P", "FORWARD", "ACCEPT")
        with lab.inside_node():
            load(lab.flavour, undocker(lab), family=lab.family)
