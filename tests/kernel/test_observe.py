"""One look at a node: what it balances, where it listens itself, what INPUT drops."""

import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from balancer.domain.observation import ConnectionCount, Listener, Observation
from balancer.domain.types import Family, Protocol
from balancer.kernel.base import DriverName, Flavour, KernelError, OutcomeUnknown, Rejected
from balancer.kernel.node import NodeKernel
from balancer.kernel.tools import read_lines
from tests.kernel.machine import BACKENDS, Namespace, Wires, ask_udp, document, load, ruleset, run, service

FIRST, SECOND = BACKENDS[:2]
ADDRESS = IPv4Address(Wires.service_address)


@pytest.fixture
def kernel(namespace: Namespace, flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)


def sync(kernel: NodeKernel, *services: dict) -> None:
    kernel.sync(ruleset=ruleset(*services), document=document(*services))


def count(protocol: str, port: int, backend: str, entries: int, established: int) -> ConnectionCount:
    return ConnectionCount(
        protocol=Protocol(protocol),
        address=ADDRESS,
        port=port,
        backend=backend,
        entries=entries,
        established=established,
    )


def test_connections_are_counted_by_backend_and_tcp_by_those_that_live(
    kernel: NodeKernel, wires: Wires
) -> None:
    with wires.backend.entered():
        for address in (FIRST, SECOND):
            wires.keep(socket.create_server((address, 80)))
    sync(kernel, service(backends=[{"address": FIRST}, {"address": SECOND}]))
    with wires.client.entered():
        clients = [socket.create_connection((wires.service_address, 80), timeout=30) for _ in range(5)]
    for client in clients[:4]:
        wires.keep(client)
    clients[4].close()

    # The last one went to the first backend; closed by the client, it is not established any more.
    assert kernel.observe().connections == (
        count("tcp", 80, f"{FIRST}:80", 3, 2),
        count("tcp", 80, f"{SECOND}:80", 2, 2),
    )


def test_udp_flows_are_told_apart_by_whether_they_are_balanced(kernel: NodeKernel, wires: Wires) -> None:
    backends = wires.listen_udp(port=53)
    sync(kernel, service("dns", protocol="udp", port=53, backends=[{"address": FIRST}]))
    assert ask_udp(wires.udp_client(port=53), backends) == FIRST
    early = wires.udp_client(port=54)
    early.send(b"nobody there yet")
    assert kernel.observe().connections == (
        count("udp", 53, f"{FIRST}:53", 1, 1),
        count("udp", 54, "", 1, 1),
    )


def test_flows_of_the_machine_to_others_are_none_of_the_matter(kernel: NodeKernel, wires: Wires) -> None:
    sync(kernel, service())
    asking = wires.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    asking.sendto(b"who is it?", (FIRST, 53))
    assert "dport=53" in run("conntrack", "-L", "-p", "udp")
    assert kernel.observe().connections == ()


def test_listeners_are_seen_but_for_those_on_loopback(kernel: NodeKernel, wires: Wires) -> None:
    keep = wires.keep
    keep(socket.create_server(("0.0.0.0", 22)))
    keep(socket.create_server((wires.service_address, 443)))
    keep(socket.create_server(("127.0.0.1", 5432)))
    keep(socket.create_server(("::1", 5433), family=socket.AF_INET6))
    keep(socket.create_server(("::", 81), family=socket.AF_INET6, dualstack_ipv6=True))
    keep(socket.create_server(("::", 82), family=socket.AF_INET6))
    bound = keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")
    bound.bind(("0.0.0.0", 67))
    tcp, udp = Protocol.TCP, Protocol.UDP
    assert kernel.observe().listeners == (
        Listener(protocol=tcp, address="*", port=81),
        Listener(protocol=tcp, address="0.0.0.0", port=22),
        Listener(protocol=tcp, address=wires.service_address, port=443),
        Listener(protocol=tcp, address="::", port=82),
        Listener(protocol=udp, address="0.0.0.0", port=67, interface="eth1"),
    )


def test_what_input_drops_is_read_as_this_flavour_saves_it(kernel: NodeKernel, flavour: Flavour) -> None:
    sync(kernel, service(backends=[]))
    load(
        flavour,
        "*filter\n:guard - [0:0]\n-A INPUT -p tcp -m multiport --dports 80,443 -j guard\n"
        "-A guard -s 203.0.113.9 -j REJECT\nCOMMIT\n",
    )
    run(f"iptables-{flavour}", "-w", "-P", "INPUT", "DROP")
    paths = {path.flavour: path for path in kernel.observe().inputs if path.family is Family.IPV4}
    (rule,) = paths[flavour].rules
    assert rule.text == "-A guard -s 203.0.113.9/32 -j REJECT --reject-with icmp-port-unreachable"
    assert (rule.ports, str(rule.source), rule.exact) == (((80, 80), (443, 443)), "203.0.113.9/32", True)
    assert (paths[flavour].policy, paths[flavour.other].policy) == ("DROP", "ACCEPT")


def test_what_the_other_flavour_drops_is_seen_too(kernel: NodeKernel, flavour: Flavour) -> None:
    load(flavour.other, "*filter\n-A INPUT -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n")
    load(flavour.other, "*filter\n-A INPUT -s 2001:db8::9 -j DROP\nCOMMIT\n", family=Family.IPV6)
    paths = {path.tool: [rule.text for rule in path.rules] for path in kernel.observe().inputs}
    assert paths == {
        f"iptables-{flavour}": [],
        f"iptables-{flavour.other}": ["-A INPUT -p tcp -m tcp --dport 80 -j DROP"],
        f"ip6tables-{flavour}": [],
        f"ip6tables-{flavour.other}": ["-A INPUT -s 2001:db8::9/128 -j DROP"],
    }


def test_an_observation_of_a_real_machine_survives_json(kernel: NodeKernel, wires: Wires) -> None:
    wires.keep(socket.create_server(("0.0.0.0", 22)))
    found = kernel.observe()
    assert found.listeners
    assert Observation.from_data(found.to_data()) == found


def test_a_tool_that_fails_is_told_and_not_taken_for_nothing(
    kernel: NodeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "conntrack"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'no netlink today' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    with pytest.raises(KernelError, match="no netlink today"):
        kernel.observe()


def test_lines_are_read_as_they_come_and_a_slow_tool_is_stopped() -> None:
    assert list(read_lines(["printf", r"one\ntwo\n"])) == ["one\n", "two\n"]
    lines = read_lines(["sh", "-c", "echo one; exec sleep 60"], timeout_seconds=0.5)
    assert next(lines) == "one\n"
    with pytest.raises(OutcomeUnknown, match=r"did not finish within 0\.5 seconds"):
        next(lines)


def test_a_reader_that_has_seen_enough_leaves_no_process_behind() -> None:
    script = "import os, sys; print(os.getpid(), flush=True)\nwhile True: print('x' * 1000)"
    lines = read_lines([sys.executable, "-c", script])
    process = Path("/proc") / next(lines).strip()
    assert process.exists()
    lines.close()
    assert not process.exists()


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(Rejected, match="no-such-tool is not installed"):
        next(read_lines(["no-such-tool"]))
