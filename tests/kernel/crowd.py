"""Many clients of one service, each with an address of its own, from one socket: a datagram, a connection."""

import os
import socket
import struct
import time
from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from tests.kernel.machine import Namespace, run

PORT = 53
_CHUNK = 500
_SECONDS = 10.0
_NUMBER = struct.Struct("!I")
_IP_PKTINFO, _IPV6_PKTINFO, _IPV6_FREEBIND = 8, 50, 78
"""ip(7), linux/in6.h: which address a datagram is sent from, and leave to choose one that is only routed."""


class Street:
    """Wires for one family: a crowd's network behind a client, the balancer, and backends that answer nobody.

    The balancer has the first address of `outside` and of `inside`, the client the second of `outside`; the
    backends follow in `inside`. Clients come from anywhere in `crowd`.
    """

    def __init__(self, balancer: Namespace, *, outside: str, inside: str, crowd: str, backends: int) -> None:
        self.balancer, self.client, self.backend = balancer, Namespace(), Namespace()
        self.crowd = ip_network(crowd)
        out, within = ip_network(outside), ip_network(inside)
        self.service = str(out[1])
        self.backends = tuple(str(within[number + 3]) for number in range(backends))
        self._version = f"-{self.crowd.version}"
        self._wire("eth0", out, self.client, [str(out[2])])
        self._wire("eth1", within, self.backend, list(self.backends))
        self._ip("route", "add", crowd, "via", str(out[2]))
        with self.client.entered():
            run("ip", "link", "set", "lo", "up")
            self._ip("route", "add", "local", crowd, "dev", "lo")
        with self.backend.entered():
            self._ip("route", "add", crowd, "via", str(within[1]))
            self.sockets = tuple(self._listen(address) for address in self.backends)
        self._source_port = 20000
        self._letters: dict[int, tuple[list[bytes], list[tuple[int, int, bytes]]]] = {}
        """What a client sends and from where, made once: a campaign sends millions."""

    def address_of(self, number: int) -> str:
        return str(self.crowd[number + 1])

    def visit(self, numbers: Collection[int]) -> dict[int, str]:
        """A new connection of each of these clients -> the backend that got it."""
        self._source_port += 1
        with self.client.entered():
            sender = socket.socket(self._family, socket.SOCK_DGRAM)
            if self.crowd.version == 6:
                sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            sender.bind(("", self._source_port))
        found: dict[int, str] = {}
        with sender:
            waiting = list(numbers)
            for start in range(0, len(waiting), _CHUNK):
                self._send(sender, waiting[start : start + _CHUNK])
                self._receive(found, until=min(start + _CHUNK, len(waiting)))
        # The next connections of the crowd must not have to look for room beside these.
        run("conntrack", "-F", "-f", f"ipv{self.crowd.version}")
        return found

    def close(self) -> None:
        for opened in self.sockets:
            opened.close()
        self.client.close()
        self.backend.close()

    @property
    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.crowd.version == 4 else socket.AF_INET6

    def _send(self, sender: socket.socket, numbers: Iterable[int]) -> None:
        target, send = (self.service, PORT), sender.sendmsg
        for number in numbers:
            if number not in self._letters:
                sent_from = self._from(int(self.crowd[1]) + number)
                self._letters[number] = [_NUMBER.pack(number)], [sent_from]
            send(*self._letters[number], 0, target)

    def _from(self, address: int) -> tuple[int, int, bytes]:
        if self.crowd.version == 4:
            packed = struct.pack("=i4s4x", 0, address.to_bytes(4))
            return socket.IPPROTO_IP, _IP_PKTINFO, packed
        return socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("=16si", address.to_bytes(16), 0)

    def _receive(self, found: dict[int, str], *, until: int) -> None:
        deadline = time.monotonic() + _SECONDS
        while True:
            for address, opened in zip(self.backends, self.sockets, strict=True):
                for number in _drain(opened):
                    assert number not in found, "one datagram came twice"
                    found[number] = address
            if len(found) == until:
                return
            assert time.monotonic() < deadline, f"{until - len(found)} datagrams reached no backend"

    def _listen(self, address: str) -> socket.socket:
        opened = socket.socket(self._family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        opened.bind((address, PORT))
        return opened

    def _ip(self, *arguments: str) -> None:
        run("ip", self._version, *arguments)

    def _wire(
        self, name: str, network: IPv4Network | IPv6Network, other: Namespace, others: Iterable[str]
    ) -> None:
        far = f"/proc/{os.getpid()}/fd/{other.descriptor}"
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", far)
        with other.entered():
            for address in others:
                self._add(address, network.prefixlen, "eth0")
            run("ip", "link", "set", "eth0", "up")
        self._add(str(network[1]), network.prefixlen, name)
        run("ip", "link", "set", name, "up")

    def _add(self, address: str, length: int, device: str) -> None:
        lasting = ["nodad"] if self.crowd.version == 6 else []
        self._ip("address", "add", f"{address}/{length}", "dev", device, *lasting)


def _drain(opened: socket.socket) -> Iterable[int]:
    while True:
        try:
            yield _NUMBER.unpack(opened.recv(_NUMBER.size))[0]
        except BlockingIOError:
            return
