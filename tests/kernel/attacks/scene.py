"""An attacker, an honest client, the node and a backend whose wire is read, each in a namespace of its own.

One scene for all kinds of attacks: the honest client keeps one connection through all of them.
"""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path as FilePath
from typing import Any

from balancer.domain.types import Family, Network
from balancer.kernel.base import Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.kernel.attacks.craft import HOPS, UDP, Path, ip, udp
from tests.kernel.attacks.kinds import Aim, Kind
from tests.kernel.behaviours.packets import ETHERTYPES, open_wire
from tests.kernel.machine import Namespace, document, run

PLAIN, PROXIED, DATAGRAMS = 80, 81, 53
_WAIT = 30.0
_FENCE = b"the last one, "
_EVERY_TYPE = 3
"""ETH_P_ALL: what goes out is seen by no other."""


@dataclass(frozen=True, slots=True)
class Places:
    client: str
    attacker: str
    inside: str
    bits: int

    def far(self, network: str) -> str:
        return f"{network}2"


PLACES = {
    Family.IPV4: Places("198.51.100.", "203.0.113.", "10.0.0.", 24),
    Family.IPV6: Places("2001:db8:1::", "2001:db8:2::", "2001:db8:3::", 64),
}
"""Each network of a wire; the node is its 1, and the other end its 2."""


NOBODY = {Family.IPV4: ip_network("198.18.0.0/15"), Family.IPV6: ip_network("2001:2::/48")}
"""Sources of floods. For benchmarks (RFC 2544, RFC 5180)."""


class Scene:
    """Wired up, the services carried, and the honest client connected.

    A subclass may balance with something else.
    """

    ports: tuple[int, ...] = (PLAIN, PROXIED)
    """Where the honest client has a connection."""
    settles = 0.0
    """Seconds after the last packet in which something may still come to the backend."""

    def __init__(self, *, flavour: Flavour, family: Family, directory: FilePath) -> None:
        self.flavour, self.family, self.places = flavour, family, PLACES[family]
        self.directory = directory
        self._inet = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        self.node, self.client, self.attacker, self.backend = (Namespace() for _ in range(4))
        self._counting = "iptables-nft" if family is Family.IPV4 else "ip6tables-nft"
        self._counted: set[Network] = set()
        self._number = 0
        self.hardware: dict[str, bytes] = {}
        self._wire_up()
        self._servers = [self._serve(port) for port in (8080, 8081)]
        self.carry()
        self.live = {port: self.connect(port) for port in self.ports}
        for port in self.live:
            self.ask(port)

    @property
    def service(self) -> str:
        """The service's address, that of the node towards the attacker."""
        return f"{self.places.attacker}1"

    @property
    def server(self) -> str:
        return self.places.far(self.places.inside)

    def carry(self, *, deny: Sequence[str] = ()) -> None:
        """The services; `deny` names networks that neither of those for TCP serves."""
        lists = {"deny": list(deny)}
        found = document(
            self._service("plain", PLAIN, 8080, access=lists),
            self._service("proxied", PROXIED, 8081, access=lists | {"syn_proxy": True}),
            self._service("datagrams", DATAGRAMS, 5353, protocol="udp"),
        )
        with self.inside_node():
            kernel = NodeKernel(flavour=self.flavour, wait_seconds=5, lock_directory=self.directory / "lock")
            kernel.sync(ruleset=compile_document(found, family=self.family), document=found)

    def _service(self, name: str, port: int, to: int, **fields: Any) -> dict[str, Any]:
        return {
            "name": name,
            "interface": "clients",
            "additional_interfaces": ["attackers"],
            "address": self.service,
            "protocol": "tcp",
            "port": port,
            "source_nat": {"mode": "none"},
            "backends": [{"address": self.server, "port": to}],
        } | fields

    def spent(self) -> float:
        """Seconds of processor time of whoever else balances than the kernel."""
        return 0.0

    def attack(self, kind: Kind, *, port: int) -> list[bytes]:
        """What of an attack came to the backend."""
        self._number += 1
        self._forget()
        aim = self._aim(port)
        with on_one_cpu():
            for packet in kind(aim):
                self._send(packet)
            self._send(self._fence())
        return self._seen_until_fence()

    def _aim(self, port: int) -> Aim:
        source = ip_address(f"{self.places.attacker}{100 + self._number % 100}")
        to = ip_address(self.service)
        own = Path(source=source, destination=to, source_port=1024 + self._number, port=port)
        live = self.live[port]
        near = Path(
            source=ip_address(live.getsockname()[0]),
            destination=to,
            source_port=live.getsockname()[1],
            port=port,
        )
        seq, ack = self._next[near.source_port]
        return Aim(
            tcp=own,
            udp=Path(source=source, destination=to, source_port=own.source_port, port=DATAGRAMS),
            live=near,
            seq=seq,
            ack=ack,
            number=self._number,
        )

    def _send(self, packet: bytes) -> None:
        where = ("eth0", ETHERTYPES[self.family], 0, 0, self.hardware["attackers"])
        self.attackers_wire.sendto(packet, where)

    def _fence(self) -> bytes:
        """A datagram that the node forwards the same way, so that whatever came before it has been seen."""
        path = Path(
            source=ip_address(self.places.far(self.places.attacker)),
            destination=ip_address(self.server),
            source_port=20_000 + self._number,
            port=5353,
        )
        return ip(path, UDP, udp(path, _FENCE + str(self._number).encode()), hops=64)

    def _seen_until_fence(self) -> list[bytes]:
        seen: list[bytes] = []
        came = False
        deadline = time.monotonic() + _WAIT
        while select.select([self._backends_wire], [], [], max(deadline - time.monotonic(), 0))[0]:
            packet, sender = self._backends_wire.recvfrom(65536)
            if packet.endswith(_FENCE + str(self._number).encode()):
                came, deadline = True, time.monotonic() + self.settles
            elif sender[2] != socket.PACKET_OUTGOING and self._is_foreign(packet):
                seen.append(packet)
        assert came, f"the last packet did not come within {_WAIT} seconds"
        return seen

    def _forget(self) -> None:
        while select.select([self._backends_wire], [], [], 0)[0]:
            self._backends_wire.recv(65536)

    def _is_foreign(self, packet: bytes) -> bool:
        """Sent by the attacker, or made by the node of what he sent."""
        if self.family is Family.IPV4:
            hops, source = packet[8], packet[12:16]
        else:
            hops, source = packet[7], packet[8:24]
            if packet[6] == 58 and packet[40] in range(133, 138):
                return False  # neighbour discovery
        return hops == HOPS - 1 or source != ip_address(self.places.far(self.places.client)).packed

    def count(self, sources: Network) -> int:
        """SYNs from these sources that came to the backend so far."""
        words = (self._counting, "-t", "raw", "-w", "5")
        with self.backend.entered():
            if sources not in self._counted:
                run(*words, "-A", "PREROUTING", "-s", str(sources), "-p", "tcp", "--syn")
                self._counted.add(sources)
            lines = run(*words, "-L", "PREROUTING", "-n", "-v", "-x").splitlines()
        return next(int(line.split()[0]) for line in lines if str(sources) in line)

    @contextmanager
    def without_cookies(self) -> Iterator[None]:
        """Backends that have no SYN cookies of their own."""
        switch = FilePath("/proc/sys/net/ipv4/tcp_syncookies")
        with self.backend.entered():
            switch.write_text("0")
        try:
            yield
        finally:
            with self.backend.entered():
                switch.write_text("1")

    def connect(self, port: int, *, timeout: float = _WAIT, attacker: bool = False) -> socket.socket:
        """An honest client's connection, or one of the attacker's own."""
        with (self.attacker if attacker else self.client).entered():
            opened = socket.socket(self._inet, socket.SOCK_STREAM)
        opened.settimeout(timeout)
        try:
            opened.connect((self.service, port))
        except OSError:
            opened.close()
            raise
        return opened

    def ask(self, port: int) -> bool:
        """Whether the honest client is answered in the connection that it has; notes where that is."""
        live = self.live[port]
        live.sendall(b"ping")
        answered = live.recv(4) == b"ping"
        self._note(live)
        return answered

    def _note(self, live: socket.socket) -> None:
        """The sequence numbers that come next, as the client sees them: off its own wire."""
        start = 20 if self.family is Family.IPV4 else 40
        source_port = live.getsockname()[1]
        while select.select([self._clients_wire], [], [], 0)[0]:
            body = self._clients_wire.recv(65536)[start:]
            if body.endswith(b"ping") and int.from_bytes(body[:2], "big") == source_port:
                seq, ack = struct.unpack_from("!II", body, 4)
                self._next[source_port] = seq + 4, ack + 4

    @contextmanager
    def inside_node(self) -> Iterator[None]:
        before = os.environ.get("XTABLES_LOCKFILE")
        os.environ["XTABLES_LOCKFILE"] = str(self.directory / "xtables.lock")
        try:
            with self.node.entered():
                yield
        finally:
            if before is None:
                del os.environ["XTABLES_LOCKFILE"]
            else:
                os.environ["XTABLES_LOCKFILE"] = before

    def _wire_up(self) -> None:
        self._next: dict[int, tuple[int, int]] = {}
        for name, network, other in (
            ("clients", self.places.client, self.client),
            ("attackers", self.places.attacker, self.attacker),
            ("inside", self.places.inside, self.backend),
        ):
            self._link(name, network, other)
        with self.node.entered():
            run("ip", "link", "set", "lo", "up")
            # What is answered to nobody goes to the attacker, and ends there.
            version = "-4" if self.family is Family.IPV4 else "-6"
            via = ("via", self.places.far(self.places.attacker))
            run("ip", version, "route", "add", str(NOBODY[self.family]), *via)
        with self.client.entered():
            self._clients_wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERY_TYPE))
            self._clients_wire.bind(("eth0", _EVERY_TYPE))
        with self.attacker.entered():
            self.attackers_wire = open_wire("eth0", family=self.family)
        with self.backend.entered():
            self._backends_wire = open_wire("eth0", family=self.family)
            self._sink = socket.socket(self._inet, socket.SOCK_DGRAM)
            self._sink.bind((self.server, 5353))

    def _link(self, name: str, network: str, other: Namespace) -> None:
        nodad = ["nodad"] if self.family is Family.IPV6 else []
        near, far, bits = f"{network}1", self.places.far(network), self.places.bits
        with self.node.entered():
            there = f"/proc/{os.getpid()}/fd/{other.descriptor}"
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", there)
            run("ip", "address", "add", f"{near}/{bits}", "dev", name, *nodad)
            run("ip", "link", "set", name, "up")
            mine = _hardware(name)
        with other.entered():
            run("ip", "link", "set", "lo", "up")
            run("ip", "address", "add", f"{far}/{bits}", "dev", "eth0", *nodad)
            run("ip", "link", "set", "eth0", "up")
            theirs = _hardware("eth0")
            version = "-4" if self.family is Family.IPV4 else "-6"
            run(
                "ip", version, "neighbour", "replace", near, "lladdr", mine, "dev", "eth0", "nud", "permanent"
            )
            run("ip", version, "route", "add", "default", "via", near)
        with self.node.entered():
            run("ip", version, "neighbour", "replace", far, "lladdr", theirs, "dev", name, "nud", "permanent")
        self.hardware[name] = bytes.fromhex(mine.replace(":", ""))

    def _serve(self, port: int) -> socket.socket:
        """Sends back what it gets on each connection, until the listening socket is closed."""
        with self.backend.entered():
            listener = socket.create_server((self.server, port), family=self._inet, backlog=1024)

        def accept() -> None:
            while True:
                try:
                    one, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_echo, args=(one,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener

    def close(self) -> None:
        for live in self.live.values():
            live.close()
        for listener in self._servers:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for opened in (self._clients_wire, self.attackers_wire, self._backends_wire, self._sink):
            opened.close()
        for namespace in (self.client, self.attacker, self.backend, self.node):
            namespace.close()


def _echo(one: socket.socket) -> None:
    with one:
        try:
            while found := one.recv(4096):
                one.sendall(found)
        except OSError:
            return


def _hardware(interface: str) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as wire:
        wire.bind((interface, 0))
        return str(wire.getsockname()[4].hex(":"))


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Packets between namespaces wait in a queue of the CPU that sent them: on one CPU they stay in order."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
