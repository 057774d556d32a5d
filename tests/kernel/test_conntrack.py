"""After a sync, connections that the kernel remembers go where the new rules would send them."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from balancer.domain.types import Document, Family, Protocol
from balancer.kernel.base import DriverName, Flavour, Receipt
from balancer.kernel.conntrack import Flows, find_stale
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import BACKENDS, Wires, ask_udp, document, ruleset, run, service
from tests.stopwatch import Stopwatch

FIRST, SECOND = BACKENDS[:2]
ROUNDS = 200 if "LBADMIN_CAMPAIGN" in os.environ else 4


@pytest.fixture
def kernel(wires: Wires, flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)


def dns(*states: str, **overrides: object) -> dict:
    """A UDP service on port 53 whose backends have these states."""
    backends = [{"address": a, "state": state} for a, state in zip(BACKENDS, states, strict=False)]
    return service("dns", protocol="udp", port=53, backends=backends) | overrides


def sync(kernel: NodeKernel, *services: dict) -> Receipt:
    return kernel.sync(ruleset=ruleset(*services), document=document(*services))


def start_flow(kernel: NodeKernel, wires: Wires) -> tuple[socket.socket, dict[str, socket.socket]]:
    """A client that is balanced to the first of two backends, and the sockets of all."""
    backends = wires.listen_udp(port=53)
    sync(kernel, dns("enabled", "enabled"))
    client = wires.udp_client(port=53)
    assert ask_udp(client, backends) == FIRST
    assert ask_udp(client, backends) == FIRST, "a flow stays with its backend"
    return client, backends


def test_a_udp_flow_leaves_a_backend_that_was_removed(kernel: NodeKernel, wires: Wires) -> None:
    client, backends = start_flow(kernel, wires)
    only_second = dns(backends=[{"address": SECOND}])
    receipt = sync(kernel, only_second)
    assert receipt.connections_removed == 1
    assert receipt.warnings == ()
    assert ask_udp(client, backends) == SECOND


def test_a_udp_flow_leaves_a_backend_that_was_disabled(kernel: NodeKernel, wires: Wires) -> None:
    client, backends = start_flow(kernel, wires)
    assert sync(kernel, dns("disabled", "enabled")).connections_removed == 1
    assert ask_udp(client, backends) == SECOND


def test_a_udp_flow_stays_on_a_backend_that_is_draining(kernel: NodeKernel, wires: Wires) -> None:
    client, backends = start_flow(kernel, wires)
    assert sync(kernel, dns("draining", "enabled")).connections_removed == 0
    assert ask_udp(client, backends) == FIRST
    assert ask_udp(wires.udp_client(port=53), backends) == SECOND


@pytest.mark.parametrize(
    "left", [(), (dns("enabled", "enabled", enabled=False),)], ids=["deleted", "not enabled"]
)
def test_a_udp_flow_ends_with_its_service(kernel: NodeKernel, wires: Wires, left: tuple[dict, ...]) -> None:
    client, _ = start_flow(kernel, wires)
    assert sync(kernel, *left).connections_removed == 1
    client.send(b"ask")
    with pytest.raises(ConnectionRefusedError):
        client.recv(100)


def test_a_udp_flow_is_refused_when_its_service_has_no_backend_left(kernel: NodeKernel, wires: Wires) -> None:
    client, _ = start_flow(kernel, wires)
    assert sync(kernel, dns()).connections_removed == 1
    client.send(b"ask")
    with pytest.raises(ConnectionRefusedError):
        client.recv(100)


@pytest.mark.parametrize("address", [None, Wires.service_address], ids=["any address", "one address"])
def test_a_client_that_talked_before_the_service_existed_is_balanced(
    kernel: NodeKernel, wires: Wires, address: str | None
) -> None:
    backends = wires.listen_udp(port=53)
    sync(kernel)
    client = wires.udp_client(port=53)
    client.send(b"too early")
    with pytest.raises(ConnectionRefusedError):
        client.recv(100)
    assert "dport=53" in run("conntrack", "-L", "-p", "udp"), "the kernel remembers the early datagram"

    assert sync(kernel, dns("enabled", "enabled", address=address)).connections_removed == 1
    assert ask_udp(client, backends) == FIRST


def test_flows_that_are_none_of_ours_are_left_alone(kernel: NodeKernel, wires: Wires) -> None:
    sync(kernel)  # until some rule asks for it, the kernel tracks nothing
    client = wires.udp_client(port=9999)
    client.send(b"hello")
    before = _tuples()
    sync(kernel, dns("enabled", "enabled"))
    sync(kernel)
    assert _tuples() == before
    assert "dport=9999" in "".join(before)


def test_an_established_tcp_connection_survives_the_removal_of_its_backend(
    kernel: NodeKernel, wires: Wires
) -> None:
    client, server = _connect_tcp(kernel, wires)
    assert sync(kernel, service(backends=[{"address": SECOND}])).connections_removed == 0
    client.send(b"still there?")
    assert server.recv(100) == b"still there?"
    assert sync(kernel).connections_removed == 0
    server.send(b"yes")
    assert client.recv(100) == b"yes"


def test_an_end_that_only_waits_learns_that_its_connection_was_cut(kernel: NodeKernel, wires: Wires) -> None:
    client, server = _connect_tcp(kernel, wires)
    disabled = service(backends=[{"address": FIRST, "state": "disabled"}, {"address": SECOND}])
    assert sync(kernel, disabled).connections_removed == 1
    for end in (client, server):
        with pytest.raises(ConnectionResetError):
            end.recv(100)
    left = run("conntrack", "-L", "-p", "tcp", "--orig-src", wires.service_address, "--orig-port-src", "80")
    assert left == "", "it would be in the way of a client that connects again from its port"


def test_a_program_of_the_node_that_keeps_its_socket_moves_too(kernel: NodeKernel, wires: Wires) -> None:
    backends = wires.listen_udp(port=53)
    sync(kernel, dns("enabled", from_node=True))
    client = wires.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(30)
    client.connect((wires.service_address, 53))
    assert ask_udp(client, backends) == FIRST
    assert sync(kernel, dns("disabled", "enabled", from_node=True)).connections_removed == 1
    assert ask_udp(client, backends) == SECOND


def test_a_flow_that_is_shown_to_backends_with_an_address_of_a_pool_moves_too(
    kernel: NodeKernel, wires: Wires
) -> None:
    run("ip", "address", "add", "10.0.0.9/24", "dev", "eth1")
    pool = {"source_nat": {"mode": "snat", "address": "10.0.0.9"}}
    backends = wires.listen_udp(port=53)
    sync(kernel, dns("enabled", **pool))
    client = wires.udp_client(port=53)
    assert ask_udp(client, backends) == FIRST
    assert sync(kernel, dns("disabled", "enabled", **pool)).connections_removed == 1
    assert ask_udp(client, backends) == SECOND


def many_ports(*backends: str) -> dict:
    """Ports 10000 to 10999."""
    first = {"port": 10_000, "port_end": 10_999}
    return dns(backends=[{"address": address, "port": 10_000} for address in backends], **first)


def test_flows_at_a_thousand_ports_leave_a_backend_within_two_seconds(
    kernel: NodeKernel, wires: Wires
) -> None:
    sync(kernel, many_ports(FIRST, SECOND))
    with wires.client.entered():
        client = wires.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for port in range(10_000, 11_000):
        client.sendto(b"ask", (wires.service_address, port))
    before = _backends_of_flows()
    assert min(before[FIRST], before[SECOND]) > 400
    watch = Stopwatch()
    assert sync(kernel, many_ports(SECOND)).connections_removed == before[FIRST]
    assert watch.own < 2
    assert _backends_of_flows() == {SECOND: before[SECOND]}


def test_no_flow_that_begins_during_a_commit_stays_on_a_backend_that_goes(
    kernel: NodeKernel, wires: Wires
) -> None:
    """Flows are looked at once, after the commit has been read back: a packet that met the old rules has its
    entry by then."""
    Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text("1")
    sync(kernel, many_ports(FIRST))
    with beginning_flows(wires) as begun:
        for round_ in range(ROUNDS):
            goes, stays = (FIRST, SECOND) if round_ % 2 == 0 else (SECOND, FIRST)
            before = len(begun)
            assert sync(kernel, many_ports(stays)).connections_removed > 0
            assert goes not in _backends_of_flows()
            assert len(begun) > before, "nothing began meanwhile"


@contextmanager
def beginning_flows(wires: Wires) -> Iterator[list[int]]:
    """Clients that begin one flow after the other; the list grows with every thousand of them."""
    over, begun = threading.Event(), []

    def begin() -> None:
        with wires.client.entered():
            while not over.is_set():
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    for port in range(10_000, 11_000):
                        client.sendto(b"ask", (wires.service_address, port))
                begun.append(1000)

    thread = threading.Thread(target=begin)
    thread.start()
    try:
        yield begun
    finally:
        over.set()
        thread.join()


def _backends_of_flows() -> Counter[str]:
    lines = run("conntrack", "-L", "-p", "udp").splitlines()
    return Counter(line.split("src=")[2].split()[0] for line in lines if "mark=805306368" in line)


def test_a_conntrack_tool_that_fails_is_a_warning_and_the_rules_are_in(
    kernel: NodeKernel, wires: Wires, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "conntrack"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'Operation failed: no netlink today' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    receipt = sync(kernel, dns("enabled"))
    assert receipt.changed
    assert any("no netlink today" in warning for warning in receipt.warnings)
    assert kernel.compare(ruleset=ruleset(dns("enabled"))).in_sync


def _flow(
    backend: str = FIRST,
    *,
    protocol: str = "udp",
    port: int = 53,
    to: str = "198.51.100.1",
    mark: int = 0x30000000,
) -> Flows:
    return Flows(
        protocol=Protocol(protocol),
        address=IPv4Address(to),
        port=port,
        answered_by=IPv4Address(backend),
        answered_port=port,
        mark=mark,
    )


def _stale(flow: Flows, carried: Document, *, local: str = "198.51.100.1") -> bool:
    return bool(
        find_stale(
            [flow], document=carried, family=Family.IPV4, local_addresses=frozenset({IPv4Address(local)})
        )
    )


def test_a_flow_that_any_service_could_own_is_left_alone() -> None:
    # The entry does not say on which interface the client is.
    inside = dns("enabled", name="inside", interface="eth1", backends=[{"address": SECOND}])
    outside = dns("enabled", name="outside")
    assert not _stale(_flow(FIRST), document(inside, outside))
    assert not _stale(_flow(SECOND), document(inside, outside))
    assert _stale(_flow(BACKENDS[2]), document(inside, outside))


def test_of_two_services_on_different_interfaces_the_clients_of_one_move_alone(
    kernel: NodeKernel, wires: Wires
) -> None:
    """Both have the same backends at the same port, and take any address of the node."""
    backends = wires.listen_udp(port=53)
    with wires.backend.entered():
        run("ip", "address", "add", "10.0.0.66/24", "dev", "eth0")
        inner = wires.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    inner.settimeout(30)
    inner.bind(("10.0.0.66", 0))
    inner.connect(("10.0.0.1", 53))
    outer = wires.udp_client(port=53)
    inside = dns("enabled", name="inside", interface="eth1")
    sync(kernel, dns("enabled"), inside)
    assert [ask_udp(client, backends) for client in (outer, inner)] == [FIRST, FIRST]

    assert sync(kernel, dns("disabled", "enabled"), inside).connections_removed == 1

    assert [ask_udp(client, backends) for client in (outer, inner)] == [SECOND, FIRST]


def test_where_the_way_of_the_answers_does_not_tell_the_interface_nothing_is_removed(
    kernel: NodeKernel, wires: Wires
) -> None:
    backends = wires.listen_udp(port=53)
    inside = dns("enabled", name="inside", interface="eth1")
    sync(kernel, dns("enabled"), inside)
    with wires.client.entered():
        run("ip", "route", "add", "10.0.0.1", "via", wires.service_address)
        client = wires.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(30)
    client.connect(("10.0.0.1", 53))
    assert ask_udp(client, backends) == FIRST

    assert sync(kernel, dns("disabled", "enabled"), inside).connections_removed == 0
    assert sync(kernel, dns("enabled"), inside | {"backends": [{"address": SECOND}]}).connections_removed == 0
    assert ask_udp(client, backends) == FIRST


def test_a_tcp_flow_is_cut_only_where_every_service_that_could_own_it_has_the_backend_disabled() -> None:
    disabled = service("a", backends=[{"address": FIRST, "state": "disabled"}])
    enabled = service("b", interface="eth1", backends=[{"address": FIRST}])
    flow = _flow(FIRST, protocol="tcp", port=80)
    assert _stale(flow, document(disabled))
    assert not _stale(flow, document(disabled, enabled))


def test_a_translated_flow_without_our_mark_is_not_ours() -> None:
    assert _stale(_flow(FIRST, mark=0x30000000), document())
    assert not _stale(_flow(FIRST, mark=0), document())
    assert not _stale(_flow(FIRST, mark=0x70000000), document())
    assert not _stale(_flow(FIRST, mark=0), document(dns("enabled")))


def test_a_service_at_one_address_owns_no_flows_to_another() -> None:
    assert _stale(_flow(FIRST, to="198.51.100.9"), document(dns("enabled", address="198.51.100.1")))
    assert not _stale(_flow(FIRST), document(dns("enabled", address="198.51.100.1")))


def _connect_tcp(kernel: NodeKernel, wires: Wires) -> tuple[socket.socket, socket.socket]:
    """A connection that is balanced to the first of two backends: the client's end and the backend's."""
    with wires.backend.entered():
        listener = wires.keep(socket.create_server((FIRST, 80)))
        wires.keep(socket.create_server((SECOND, 80)))
    sync(kernel, service(backends=[{"address": FIRST}, {"address": SECOND}]))
    with wires.client.entered():
        client = wires.keep(socket.create_connection((wires.service_address, 80), timeout=30))
    listener.settimeout(30)
    server = wires.keep(listener.accept()[0])
    server.settimeout(30)
    return client, server


def _tuples() -> list[str]:
    """The entries without what changes by itself."""
    lines = run("conntrack", "-L").splitlines()
    return sorted(
        " ".join(w for w in line.split() if w.startswith(("src=", "dst=", "sport=", "dport=")))
        for line in lines
    )
