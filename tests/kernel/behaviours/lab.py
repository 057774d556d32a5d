"""What the behaviours are tried with: documents that the node carries, single packets, and real sockets."""

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

from balancer.domain.types import Address, Document, Family, Protocol
from balancer.kernel.base import Difference, Flavour, Receipt
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset
from tests.kernel.behaviours.machines import FENCE_SINK, INTERFACES, LAN, Machines
from tests.kernel.behaviours.packets import (
    ETHERTYPES,
    Seen,
    is_numbered,
    is_traffic,
    make_packet,
    read_packet,
)
from tests.kernel.machine import Namespace, document, run

_WAIT_SECONDS = 20
_BURST = 256
_FENCE = 0xF0000000
_FENCE_PORT = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A connection to be begun."""

    protocol: Protocol
    source: Address
    destination: Address
    port: int
    interface: str | None = INTERFACES[0]
    """None: a program on the node begins it."""


class Lab(Machines):
    """The machines with a node that carries documents. Flows are told apart by number."""

    def __init__(self, *, flavour: Flavour, family: Family, directory: Path) -> None:
        super().__init__(flavour=flavour, family=family, directory=directory)
        self._carried: tuple[dict[str, Any], ...] | None = None
        self._numbers = 0
        self.carried = 0
        self._sockets: list[socket.socket] = []
        self._kernel = NodeKernel(flavour=flavour, lock_directory=directory, wait_seconds=20)
        self.document = Document()
        self.ruleset: Ruleset = compile_document(Document(), family=family)

    def carry(self, *services: dict[str, Any]) -> Receipt | None:
        """Brings a document in, unless the node carries that one."""
        if services == self._carried:
            return None
        receipt = self.carry_document(document(*services))
        self._carried = services
        return receipt

    def carry_document(self, found: Document) -> Receipt:
        self._carried, self.document = None, found
        self.carried += 1
        self.ruleset = compile_document(found, family=self.family)
        with self.inside_node():
            return self._kernel.sync(ruleset=self.ruleset, document=found)

    def compare(self) -> Difference:
        with self.inside_node():
            return self._kernel.compare(ruleset=self.ruleset)

    def count_open(self, *names: str) -> dict[str, dict[str, int]]:
        """Service -> endpoint -> connections that are not over."""
        assert self._carried is not None
        services = [s for s in document(*self._carried).services if s.name in names]
        with self.inside_node():
            return {name: dict(found) for name, found in self._kernel.count_open(services=services).items()}

    def forget_connections(self) -> None:
        with self.inside_node():
            run("conntrack", "-F")

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

    def go_on(self, number: int, flow: Flow, *, times: int = 1) -> Seen | None:
        """What came of more packets of the flow that has this number: the same client and source port."""
        with _on_one_cpu():
            for _ in range(times):
                self._send_one(number, flow)
            return self._look().get(number)

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

    def send_raw(
        self, packets: Sequence[bytes], *, interface: str = INTERFACES[0]
    ) -> tuple[list[bytes], list[bytes]]:
        """What came to the backends, and what to INTERFACES[0]: of these packets, or in answer to them."""
        self._look()
        wire, far, hardware = self._wires[interface]
        with _on_one_cpu():
            for packet in packets:
                wire.sendto(packet, (far, ETHERTYPES[self.family], 0, 0, hardware))
            fence = self._send_fence()
        inside = []
        while not is_numbered(packet := self._wires[LAN][0].recv(2048), fence, family=self.family):
            inside.append(packet)
        back, wire = [], self._wires[INTERFACES[0]][0]
        while select.select([wire], [], [], 0)[0]:
            back.append(wire.recv(2048))
        return [p for p in inside if is_traffic(p, self.family)], [
            p for p in back if is_traffic(p, self.family)
        ]

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
        fence = self._send_fence()
        seen = self._read(self._wires[LAN][0], until=fence)
        for wire in (self._loopback, *(self._wires[interface][0] for interface in INTERFACES)):
            seen |= {n: s for n, s in self._read(wire).items() if s.refusal}
        return seen

    def _send_fence(self) -> int:
        self._numbers += 1
        fence = _FENCE + self._numbers
        last = Flow(
            protocol=Protocol.UDP,
            source=ip_address(self.places.client.format(0)),
            destination=ip_address(self.sink(FENCE_SINK)),
            port=_FENCE_PORT,
        )
        self._send_one(fence, last)
        return fence

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

    def connect(
        self, address: str, port: int, *, source: Address | None = None, segment: int | None = None
    ) -> socket.socket:
        """A TCP connection from the client's machine; `segment` is the largest that it says it takes."""
        with self.client.entered():
            opened = self._socket(socket.SOCK_STREAM)
        if segment is not None:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        opened.bind((str(source or self.source(200)), 0))
        opened.connect((address, port))
        return opened

    def ask(self, address: str, port: int, *, source: Address) -> socket.socket:
        """A UDP socket of the client's machine that speaks to one address and port."""
        with self.client.entered():
            opened = self._socket(socket.SOCK_DGRAM)
        opened.bind((str(source), 0))
        opened.connect((address, port))
        return opened

    def connect_from_node(self, address: str, port: int) -> socket.socket:
        with self.node.entered():
            opened = self._socket(socket.SOCK_STREAM)
        opened.connect((address, port))
        return opened

    def listen_on_node(
        self, address: str, port: int, *, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> socket.socket:
        return self._bound(self.node, address, port, kind)

    def _bound(self, namespace: Namespace, address: str, port: int, kind: socket.SocketKind) -> socket.socket:
        with namespace.entered():
            opened = self._socket(kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(100)
        return opened

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        opened = socket.socket(self.inet, kind)
        opened.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        opened.settimeout(30)
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

    def close(self) -> None:
        self.hang_up()
        super().close()


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


def wait_for(condition: Any, *, seconds: float = 20) -> bool:
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
