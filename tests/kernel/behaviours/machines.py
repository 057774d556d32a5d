"""Three machines for the behaviours: clients with any address, the node, and a wire where backends are read.

The client's machine sends single packets from whatever source; the backends' machine takes what comes and
says nothing, so that one look at its wire tells backend, port and source of each flow. Real sockets answer at
the addresses that `live` gives.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from balancer.domain.types import Address, Family
from balancer.kernel.base import Flavour
from tests.kernel.behaviours.packets import open_wire
from tests.kernel.machine import Namespace, run

INTERFACES = ("eth0", "eth1", "bond0.100")
"""Of the node, towards the clients; as in tests.documents."""
LAN = "lan0"
FENCE_SINK = 254
"""Reached in any case, so that a look knows when it has seen everything."""


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


class Machines:
    """Wired up, with addresses and routes, and nothing of lbadmin's on the node."""

    def __init__(self, *, flavour: Flavour, family: Family, directory: Path) -> None:
        self.flavour, self.family, self.places = flavour, family, PLACES[family]
        self.node, self.client, self.backend = Namespace(), Namespace(), Namespace()
        self.inet = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        self._directory = directory
        self._strangers = 10_000
        self._wire_up()

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

    def wire(self, interface: str) -> socket.socket:
        """What comes to the machine at the other end of the node's interface."""
        return self._wires[interface][0]

    @contextmanager
    def inside_node(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, self.node.entered():
            patch.setenv("XTABLES_LOCKFILE", str(self._directory / "xtables.lock"))
            yield

    def iptables(self, *words: str) -> str:
        tool = "iptables" if self.family is Family.IPV4 else "ip6tables"
        with self.inside_node():
            return run(f"{tool}-{self.flavour}", "-w", "5", *words)

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
            self._from_node = socket.socket(self.inet, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.iptables("-A", "FORWARD", "-d", self.sink(FENCE_SINK), "-j", "ACCEPT")
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
        for wire in (self._from_node, self._loopback, *(wire for wire, _, _ in self._wires.values())):
            wire.close()
        for namespace in (self.client, self.backend, self.node):
            namespace.close()


def _hardware(interface: str, family: Family) -> str:
    with open_wire(interface, family=family) as wire:
        return str(wire.getsockname()[4].hex(":"))


def _write(key: str, value: str) -> None:
    Path("/proc/sys", key).write_text(value)
