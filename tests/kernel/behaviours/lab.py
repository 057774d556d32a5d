"""Three machines for the behaviours: clients with any address, the node, and a wire where backends are read.

The client's machine sends single packets from whatever source; the backends' machine takes what comes and
says nothing, so that one look at its wire tells backend, port and source of each flow. Real sockets answer at
the addresses that `live` gives.
"""

import os
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from balancer.domain.types import Address, Document, Family, Protocol
from balancer.kernel.base import Flavour, Receipt
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset
from tests.kernel.behaviours.packets import ETHERTYPES, Seen, make_packet, open_wire, read_packet
from tests.kernel.machine import Namespace, document, run

INTERFACES = ("eth0", "eth1", "bond0.100")
"""Of the node, towards the clients; as in tests.documents."""
LAN = "lan0"
_WAIT_SECONDS = 20
_BURST = 256
_FENCE = 0xF0000000
_FENCE_PORT = 9
_FENCE_SINK = 254


@dataclass(frozen=True, slots=True)
class Places:
    """The addresses of one family."""

    own: str
    """The node's, one for each interface."""
    client: str
    """The client machine's, on the same links."""
    virtual: str
    """More addresses of the node, which services are for."""
    inside: str
    """The node's on the LAN."""
    hop: str
    """The backends' machine on the LAN."""
    sink: str
    """Backends that are only looked at."""
    live: str
    """Backends at which sockets answer."""
    pool: str
    """For source NAT."""
    clients: str
    """Clients: any address that begins so."""
    sinks: str
    lives: str
    links: int
    """Bits of the prefix of a link."""


PLACES = {
    Family.IPV4: Places(
        own="198.51.10{}.1",
        client="198.51.10{}.2",
        virtual="203.0.113.{}",
        inside="10.0.0.1",
        hop="10.0.0.2",
        sink="10.1.0.{}",
        live="10.2.0.{}",
        pool="10.9.0.{}",
        clients="64.0.0.0/3",
        sinks="10.1.0.0/16",
        lives="10.2.0.0/16",
        links=24,
    ),
    Family.IPV6: Places(
        own="2001:db8:10{}::1",
        client="2001:db8:10{}::2",
        virtual="2001:db8:203::{}",
        inside="fd00::1",
        hop="fd00::2",
        sink="fd00:1::{}",
        live="fd00:2::{}",
        pool="fd00:9::{}",
        clients="2400::/12",
        sinks="fd00:1::/64",
        lives="fd00:2::/64",
        links=64,
    ),
}
VIRTUALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A connection to be begun."""

    protocol: Protocol
    source: Address
    destination: Address
    port: int
    interface: str | None = INTERFACES[0]
    """None: a program on the node begins it."""


class Lab:
    """One node that carries documents, and its surroundings. Flows are told apart by number."""

    def __init__(self, *, flavour: Flavour, family: Family, directory: Path) -> None:
        self.flavour, self.family, self.places = flavour, family, PLACES[family]
        self.node, self.client, self.backend = Namespace(), Namespace(), Namespace()
        self._inet = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        self._directory = directory
        self._carried: tuple[dict[str, Any], ...] | None = None
        self._numbers = 0
        self._strangers = 10_000
        self.carried = 0
        self._sockets: list[socket.socket] = []
        self._wire_up()
        self._kernel = NodeKernel(flavour=flavour, lock_directory=directory, wait_seconds=20)
        self.ruleset: Ruleset = compile_document(Document(), family=family)

    def own(self, number: int = 0) -> str:
        """The node's address on INTERFACES[number]."""
        return self.places.own.format(number)

    def virtual(self, number: int) -> str:
        """1 to VIRTUALS."""
        return self.places.virtual.format(number)

    def sink(self, number: int) -> str:
        return self.places.sink.format(number)

    def live(self, number: int) -> str:
        return self.places.live.format(number)

    def pool(self, number: int) -> str:
        return self.places.pool.format(number)

    def source(self, number: int, *, network: int = 0) -> Address:
        """Client `number` (from 0) of a /24 (IPv4) or /64 (IPv6), each /64 in a /32 of its own."""
        base = int(ip_address(self.places.clients.split("/")[0]))
        width = 8 if self.family is Family.IPV4 else 96
        return ip_address(base + (network << width) + number + 1)

    def sources(self, count: int) -> list[Address]:
        """Clients that have no network in common."""
        return [self.source(number % 250, network=1 + number) for number in range(count)]

    def strangers(self, count: int) -> list[Address]:
        """The same, and none of them was ever here."""
        first, self._strangers = self._strangers, self._strangers + count
        return [self.source(7, network=first + number) for number in range(count)]

    def carry(self, *services: dict[str, Any]) -> Receipt | None:
        """Brings a document in, unless the node carries that one."""
        if services == self._carried:
            return None
        receipt = self.carry_document(document(*services))
        self._carried = services
        return receipt

    def carry_document(self, found: Document) -> Receipt:
        self._carried = None
        self.carried += 1
        self.ruleset = compile_document(found, family=self.family)
        with self.inside_node():
            return self._kernel.sync(ruleset=self.ruleset, document=found)

    def forget_connections(self) -> None:
        with self.inside_node():
            run("conntrack", "-F")

    @contextmanager
    def inside_node(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, self.node.entered():
            patch.setenv("XTABLES_LOCKFILE", str(self._directory / "xtables.lock"))
            yield

    def iptables(self, *words: str) -> str:
        tool = "iptables" if self.family is Family.IPV4 else "ip6tables"
        with self.inside_node():
            return run(f"{tool}-{self.flavour}", "-w", "5", *words)

    def send(self, flows: Sequence[Flow]) -> list[Seen | None]:
        """What came of each flow: seen at a backend, refused, or nothing at all."""
        packets = []
        for flow in flows:
            self._numbers += 1
            packets.append((self._numbers, flow))
        seen: dict[int, Seen] = {}
        with _on_one_cpu():
            for start in range(0, len(packets), _BURST):
                for number, flow in packets[start : start + _BURST]:
                    self._send_one(number, flow)
                seen |= self._look()
        return [seen.get(number) for number, _ in packets]

    def open(
        self,
        protocol: Protocol,
        port: int,
        sources: Iterable[Address],
        *,
        destination: str | None = None,
        interface: str = INTERFACES[0],
    ) -> list[Seen | None]:
        """One flow from each source."""
        to = ip_address(destination or self.own(INTERFACES.index(interface) if interface != LAN else 0))
        return self.send(
            [
                Flow(protocol=protocol, source=source, destination=to, port=port, interface=interface)
                for source in sources
            ]
        )

    def _send_one(self, number: int, flow: Flow) -> None:
        packet = make_packet(
            protocol=flow.protocol,
            source=flow.source,
            source_port=1024 + number % 60000,
            destination=flow.destination,
            port=flow.port,
            number=number,
        )
        if flow.interface is None:
            # Whoever sends is told at once that a packet of his was refused.
            with suppress(PermissionError):
                self._from_node.sendto(packet, (str(flow.destination), 0))
        else:
            wire, far, hardware = self._wires[flow.interface]
            wire.sendto(packet, (far, ETHERTYPES[self.family], 0, 0, hardware))

    def _look(self) -> dict[int, Seen]:
        """All that was seen until a last packet, which took the same way, was."""
        self._numbers += 1
        fence = _FENCE + self._numbers
        last = Flow(
            protocol=Protocol.UDP,
            source=ip_address(self.places.client.format(0)),
            destination=ip_address(self.sink(_FENCE_SINK)),
            port=_FENCE_PORT,
        )
        self._send_one(fence, last)
        seen = self._read(self._wires[LAN][0], until=fence)
        for wire in (self._loopback, *(self._wires[interface][0] for interface in INTERFACES)):
            seen |= {n: s for n, s in self._read(wire).items() if s.refusal}
        return seen

    def _read(self, wire: socket.socket, *, until: int | None = None) -> dict[int, Seen]:
        seen: dict[int, Seen] = {}
        while True:
            wait = 0 if until is None else _WAIT_SECONDS
            ready, _, _ = select.select([wire], [], [], wait)
            if not ready:
                assert until is None, f"the last packet did not come within {_WAIT_SECONDS} seconds"
                return seen
            packet = read_packet(wire.recv(2048), family=self.family)
            if packet is not None:
                if packet.number == until:
                    return seen
                seen[packet.number] = packet

    def listen(
        self, address: str, port: int, *, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> socket.socket:
        """At one of the `live` addresses."""
        return self._bound(self.backend, address, port, kind)

    def connect(self, address: str, port: int, *, source: Address | None = None) -> socket.socket:
        """A TCP connection from the client's machine."""
        with self.client.entered():
            opened = self._socket(socket.SOCK_STREAM)
        opened.bind((str(source or self.source(200)), 0))
        opened.connect((address, port))
        return opened

    def connect_from_node(self, address: str, port: int) -> socket.socket:
        with self.node.entered():
            opened = self._socket(socket.SOCK_STREAM)
        opened.connect((address, port))
        return opened

    def listen_on_node(self, address: str, port: int) -> socket.socket:
        return self._bound(self.node, address, port, socket.SOCK_STREAM)

    def _bound(self, namespace: Namespace, address: str, port: int, kind: socket.SocketKind) -> socket.socket:
        with namespace.entered():
            opened = self._socket(kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(100)
        return opened

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        opened = socket.socket(self._inet, kind)
        opened.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        opened.settimeout(5)
        return self.keep(opened)

    def keep(self, opened: socket.socket) -> socket.socket:
        """Closed by `hang_up`."""
        self._sockets.append(opened)
        return opened

    def hang_up(self) -> None:
        """Closes what a test opened."""
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()

    def _wire_up(self) -> None:
        self._wires: dict[str, tuple[socket.socket, str, bytes]] = {}
        for number, name in enumerate(INTERFACES):
            self._link(name, self.own(number), self.client, f"far{number}", self.places.client.format(number))
        self._link(LAN, self.places.inside, self.backend, "far0", self.places.hop)
        bits = "32" if self.family is Family.IPV4 else "128"
        with self.node.entered():
            run("ip", "link", "set", "lo", "up")
            for number in range(1, VIRTUALS + 1):
                self._ip("address", "add", f"{self.virtual(number)}/{bits}", "dev", "lo")
            self._ip("route", "add", self.places.clients, "via", self.places.client.format(0))
            for network in (self.places.sinks, self.places.lives):
                self._ip("route", "add", network, "via", self.places.hop)
            _write("net/ipv4/ip_forward", "1")
            _write("net/ipv6/conf/all/forwarding", "1")
            # Every refusal is to be seen, and every source may come in anywhere.
            _write("net/ipv4/icmp_ratemask", "0")
            _write("net/ipv6/icmp/ratelimit", "0")
            _write("net/ipv4/conf/all/rp_filter", "0")
            self._loopback = open_wire("lo", family=self.family)
            self._from_node = socket.socket(self._inet, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.iptables("-A", "FORWARD", "-d", self.sink(_FENCE_SINK), "-j", "ACCEPT")
        new = ("-m", "conntrack", "--ctstate", "NEW")
        for name in (*INTERFACES, LAN):
            # What no service takes must not be answered by the node itself: that would look like a refusal.
            self.iptables("-A", "INPUT", "-i", name, *new, "-j", "DROP")
        with self.client.entered():
            run("ip", "link", "set", "lo", "up")
            self._ip("route", "add", "local", self.places.clients, "dev", "lo")
            self._ip("route", "add", "default", "via", self.own(0))
            _write("net/ipv6/ip_nonlocal_bind", "1")
        with self.backend.entered():
            run("ip", "link", "set", "lo", "up")
            self._ip("route", "add", "local", self.places.lives, "dev", "lo")
            self._ip("route", "add", "default", "via", self.places.inside)

    def _link(self, name: str, address: str, other: Namespace, far: str, far_address: str) -> None:
        bits = self.places.links
        nodad = ["nodad"] if self.family is Family.IPV6 else []
        with self.node.entered():
            namespace = f"/proc/{os.getpid()}/fd/{other.descriptor}"
            run("ip", "link", "add", name, "type", "veth", "peer", "name", far, "netns", namespace)
            self._ip("address", "add", f"{address}/{bits}", "dev", name, *nodad)
            run("ip", "link", "set", name, "up")
            near_hardware = _hardware(name, self.family)
        with other.entered():
            self._ip("address", "add", f"{far_address}/{bits}", "dev", far, *nodad)
            run("ip", "link", "set", far, "up")
            self._ip("neighbour", "replace", address, "lladdr", near_hardware, "dev", far, "nud", "permanent")
            far_hardware = _hardware(far, self.family)
            wire = open_wire(far, family=self.family)
        with self.node.entered():
            self._ip(
                "neighbour", "replace", far_address, "lladdr", far_hardware, "dev", name, "nud", "permanent"
            )
        self._wires[name] = wire, far, bytes.fromhex(near_hardware.replace(":", ""))

    def _ip(self, *words: str) -> None:
        run("ip", "-4" if self.family is Family.IPV4 else "-6", *words)

    def close(self) -> None:
        self.hang_up()
        for wire in (self._from_node, self._loopback, *(wire for wire, _, _ in self._wires.values())):
            wire.close()
        for namespace in (self.client, self.backend, self.node):
            namespace.close()


_IP_FREEBIND = 15


@contextmanager
def _on_one_cpu() -> Iterator[None]:
    """Packets between namespaces wait in a queue of the CPU that sent them: on one CPU they stay in order."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _hardware(interface: str, family: Family) -> str:
    with open_wire(interface, family=family) as wire:
        return str(wire.getsockname()[4].hex(":"))


def _write(key: str, value: str) -> None:
    Path("/proc/sys", key).write_text(value)


def wait_for(condition: Any, *, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def by_backend(seen: Iterable[Seen | None]) -> Mapping[str, int]:
    """Backend address -> flows. Fails where a flow reached none."""
    counts: dict[str, int] = {}
    for one in seen:
        assert one is not None, "a flow reached no backend"
        assert not one.refusal, one
        counts[str(one.destination)] = counts.get(str(one.destination), 0) + 1
    return counts
