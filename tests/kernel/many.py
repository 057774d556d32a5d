"""Very many clients before a balancer and very many backends behind it, with one socket for each side.

Every flow is one UDP datagram from an address of its own. It carries its number, and the backends' socket
tells at which address it came in. Nobody answers.
"""

import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import islice
from pathlib import Path

from balancer.domain.types import Address, Family
from tests.kernel.machine import Namespace, run

PORT = 53
_PKTINFO = {Family.IPV4: (socket.IPPROTO_IP, 8), Family.IPV6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)}
"""IP_PKTINFO of ip(7), which Python 3.11 does not name."""
_IPV6_FREEBIND, _RCVBUFFORCE = 78, 33
_BUFFER = 64 << 20
_BATCH = 2000
"""Datagrams on the way at once: as many as the backends' socket surely holds."""
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Plan:
    service: str
    """The service's address; the client's own is the next one."""
    node: str
    """The balancer's address before the backends; the next one is theirs."""
    length: int
    clients: IPv4Network | IPv6Network
    backends: IPv4Network | IPv6Network

    def client(self, number: int) -> Address:
        return self.clients[number]

    def backend(self, number: int) -> Address:
        return self.backends[number + 1]


PLANS = {
    Family.IPV4: Plan(
        "198.51.100.1", "192.0.2.1", 24, ip_network("198.18.0.0/15"), ip_network("10.7.0.0/16")
    ),
    Family.IPV6: Plan(
        "2001:db8:a::1",
        "2001:db8:b::1",
        64,
        ip_network("3000::/8"),
        ip_network("2001:db8:d::/64"),
    ),
}


class Crowd:
    """The balancer's namespace is the caller's; it is the service's address on eth0."""

    def __init__(self, balancer: Namespace, family: Family = Family.IPV4) -> None:
        self.family, self.plan = family, PLANS[family]
        self.client, self.backend = Namespace(), Namespace()
        for namespace in (balancer, self.client, self.backend):
            with namespace.entered():
                _settle_at_once()
        self._wire(balancer, "eth0", self.plan.service, self.client, self.plan.clients)
        self._wire(balancer, "eth1", self.plan.node, self.backend, self.plan.backends)
        # A client that is gone for a second is a new one: there are fewer entries to look through.
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            Path(f"/proc/sys/net/netfilter/{name}").write_text("1")
        self._open()

    def _wire(
        self,
        balancer: Namespace,
        name: str,
        address: str,
        other: Namespace,
        local: IPv4Network | IPv6Network,
    ) -> None:
        far, ip = f"/proc/{os.getpid()}/fd/{other.descriptor}", ("ip", f"-{self.plan.clients.version}")
        peer = str(ip_address(address) + 1)
        with balancer.entered():
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", far)
            self._address(f"{address}/{self.plan.length}", name)
            with other.entered():
                self._address(f"{peer}/{self.plan.length}", "eth0")
                run("ip", "link", "set", "lo", "up")
                run(*ip, "route", "add", "local", str(local), "dev", "lo")
                run(*ip, "route", "add", "default", "via", address)
            run(*ip, "route", "add", str(local), "via", peer)

    def _address(self, address: str, name: str) -> None:
        run("ip", "address", "add", address, "dev", name)
        run("ip", "link", "set", name, "up")

    def visit(self, numbers: Iterable[int]) -> dict[int, Address]:
        """A new flow of each of these clients; client -> the backend that got it."""
        self.begin_anew()
        return self.send(numbers)

    def begin_anew(self) -> None:
        """From now on the clients use another port: their flows are new ones."""
        self._sender.close()
        self._sender = self._open_sender()

    def _open_sender(self) -> socket.socket:
        self._port += 1
        with self.client.entered():
            sender = socket.socket(self._kind, socket.SOCK_DGRAM)
            sender.bind(("", self._port))
        if self.family is Family.IPV6:
            sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        return sender

    def _open(self) -> None:
        self._port = 20_000
        self._kind = socket.AF_INET6 if self.family is Family.IPV6 else socket.AF_INET
        self._sender = self._open_sender()
        with self.backend.entered():
            self._receiver = socket.socket(self._kind, socket.SOCK_DGRAM)
        self._receiver.setsockopt(*_PKTINFO[self.family], 1)
        self._receiver.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        self._receiver.bind(("", PORT))
        self._receiver.settimeout(2)

    def send(self, numbers: Iterable[int]) -> dict[int, Address]:
        """One datagram from each of these clients; client -> the backend that got it."""
        return self.send_from({number: self.plan.client(number) for number in numbers})

    def send_from(self, clients: Mapping[int, Address]) -> dict[int, Address]:
        """The same for clients at any address of theirs."""
        found: dict[int, Address] = {}
        wanted = iter(clients.items())
        while part := dict(islice(wanted, _BATCH)):
            found.update(self._send_part(part))
        return found

    def _send_part(self, part: Mapping[int, Address]) -> dict[int, Address]:
        """Once more where a datagram was lost on the way: while a neighbour is looked up, the kernel keeps
        some 270 packets for it. The flow is remembered, so that it goes where the first one went."""
        found: dict[int, Address] = {}
        for left in reversed(range(_TRIES)):
            for number in part.keys() - found.keys():
                self._send(number, part[number])
            try:
                while len(found) < len(part):
                    number, backend = self._receive()
                    if number in part:
                        found[number] = backend
                return found
            except TimeoutError:
                if not left:
                    raise
        return found

    def _send(self, number: int, address: Address) -> None:
        if self.family is Family.IPV6:
            control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("16sI", address.packed, 0))
        else:
            control = (socket.IPPROTO_IP, 8, struct.pack("I4s4s", 0, address.packed, bytes(4)))
        self._sender.sendmsg([number.to_bytes(4, "big")], [control], 0, (self.plan.service, PORT))

    def _receive(self) -> tuple[int, Address]:
        data, ancillary, _, _ = self._receiver.recvmsg(16, 64)
        packed = ancillary[0][2]
        destination = packed[:16] if self.family is Family.IPV6 else packed[8:12]
        first = int(self.plan.backends.network_address)
        return int.from_bytes(data, "big"), self.plan.backends[int.from_bytes(destination, "big") - first]

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()
        self.client.close()
        self.backend.close()


def _settle_at_once() -> None:
    """No duplicate address detection: a link-local address would be of no use for two seconds."""
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")
