"""Established connections, and rules of others on the same machine."""

import select
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


def pair(lab: Lab, port: int) -> dict[str, tuple[socket.socket, socket.socket]]:
    """Backend address -> both ends of a connection, one for each of the two backends."""
    servers = {lab.live(number): lab.listen(lab.live(number), port) for number in (1, 2)}
    found = {}
    for _ in servers:
        client = lab.connect(lab.own(), port)
        ready, _, _ = select.select(list(servers.values()), [], [], 30)
        accepted, _ = ready[0].accept()
        found[accepted.getsockname()[0]] = client, lab.keep(accepted)
    assert set(found) == set(servers)
    return found


def test_a_draining_backend_keeps_established_connections_and_gets_no_new_ones(lab: Lab) -> None:
    pairs = pair(lab, DRAINING)
    states = [{"address": lab.live(1), "state": "draining"}, {"address": lab.live(2)}]
    lab.carry(*services(lab, draining={"backends": states}))
    for client, server in pairs.values():
        talk(client, server)
    seen = lab.open(Protocol.TCP, DRAINING, lab.sources(6))
    assert by_backend(seen) == {lab.live(2): 6}


def test_a_forward_policy_of_drop_lets_balanced_connections_through_both_ways(lab: Lab) -> None:
    lab.iptables("-P", "FORWARD", "DROP")
    try:
        assert lab.open(UDP, 7, lab.sources(2), destination=lab.sink(1)) == [None, None]
        for client, server in pair(lab, TALK).values():
            talk(client, server)
    finally:
        lab.iptables("-P", "FORWARD", "ACCEPT")


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


def rules_of_others(lab: Lab) -> list[str]:
    """Without the lines of built-in chains, which carry counters."""
    lines = foreign_part(save(lab.flavour, family=lab.family)).splitlines()
    return [line for line in lines if not line.startswith(":") or line.split()[1] == "-"]


def take_docker_out(lab: Lab) -> None:
    for rule in ("FORWARD -j DOCKER-FORWARD", "FORWARD -j DOCKER-USER"):
        lab.iptables("-D", *rule.split())
    for rule in (
        "PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "OUTPUT -m addrtype --dst-type LOCAL -j DOCKER",
        f"POSTROUTING -s {lab.sink(240)} -j MASQUERADE",
    ):
        lab.iptables("-t", "nat", "-D", *rule.split())
    for table, chain in (
        ("filter", "DOCKER-FORWARD"),
        ("filter", "DOCKER-USER"),
        ("filter", "DOCKER"),
        ("nat", "DOCKER"),
    ):
        lab.iptables("-t", table, "-F", chain)
        lab.iptables("-t", table, "-X", chain)


def test_beside_docker_both_work_and_the_rules_of_docker_stay_as_they_are(lab: Lab) -> None:
    with lab.inside_node():
        load(lab.flavour, docker(lab), family=lab.family)
        before = rules_of_others(lab)
    lab.iptables("-P", "FORWARD", "DROP")
    try:
        lab.carry(*services(lab, same={"scheduler": "random"}))
        lab.carry(*services(lab))
        assert by_backend(lab.open(UDP, DOCKER, lab.sources(3))) == {lab.sink(240): 3}
        assert by_backend(lab.open(UDP, SAME, lab.sources(4))) == {lab.sink(1): 2, lab.sink(2): 2}
        lab.iptables("-P", "FORWARD", "ACCEPT")
        with lab.inside_node():
            assert rules_of_others(lab) == before
    finally:
        lab.iptables("-P", "FORWARD", "ACCEPT")
        take_docker_out(lab)
