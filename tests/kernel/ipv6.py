"""IPv6 for the kernel tests: services in one line, and three machines with IPv6 addresses beside the others.

The balancer is 2001:db8:1::1 on eth0, where the client 2001:db8:1::2 is, and 2001:db8:2::1 on eth1.
"""

import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.kernel.machine import Namespace, Wires, run

BALANCER, CLIENT, INSIDE = "2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1"
BACKENDS6 = ("2001:db8:2::3", "2001:db8:2::4", "2001:db8:2::5", "2001:db8:2::6")


def service6(name: str = "web6", /, **overrides: Any) -> dict[str, Any]:
    """A service as data: TCP port 81 on eth0 with four IPv6 backends."""
    data: dict[str, Any] = {
        "name": name,
        "interface": "eth0",
        "protocol": "tcp",
        "port": 81,
        "backends": [{"address": address} for address in BACKENDS6],
    }
    return data | overrides


class Wires6(Wires):
    """Wires with both families."""

    def __init__(self, balancer: Namespace) -> None:
        super().__init__(balancer)
        _add(balancer, "eth0", [f"{BALANCER}/64"])
        _add(balancer, "eth1", [f"{INSIDE}/64"])
        _add(self.client, "eth0", [f"{CLIENT}/64"])
        _add(self.backend, "eth0", [f"{address}/64" for address in BACKENDS6])
        with self.client.entered():
            run("ip", "-6", "route", "add", "default", "via", BALANCER)

    def listen6(self, *, port: int, kind: int = socket.SOCK_STREAM) -> dict[str, socket.socket]:
        """Backend address -> the socket that gets what is sent there."""
        with self.backend.entered():
            return {address: self._bound6((address, port), kind) for address in BACKENDS6}

    def connect6(self, *, port: int, count: int, address: str = BALANCER) -> None:
        """So many TCP connections that are accepted, one after the other, and stay open."""
        for _ in range(count):
            with self.client.entered():
                self.keep(socket.create_connection((address, port), timeout=30))

    def udp_client6(self, *, port: int) -> socket.socket:
        with self.client.entered():
            client = self._bound6((CLIENT, 0), socket.SOCK_DGRAM)
        client.connect((BALANCER, port))
        return client

    def _bound6(self, address: tuple[str, int], kind: int) -> socket.socket:
        opened = self.keep(socket.socket(socket.AF_INET6, kind))
        opened.settimeout(30)
        opened.bind(address)
        if kind == socket.SOCK_STREAM:
            opened.listen(1000)
        return opened


def accepted(listeners: dict[str, socket.socket], wires: Wires6) -> tuple[Counter[str], set[str]]:
    """Connections by backend, and the clients' addresses that the backends see."""
    counts: Counter[str] = Counter()
    peers = set()
    for address, listener in listeners.items():
        listener.setblocking(False)
        while True:
            try:
                connection, peer = listener.accept()
            except BlockingIOError:
                break
            wires.keep(connection)
            counts[address] += 1
            peers.add(peer[0])
    return counts, peers


def _add(namespace: Namespace, interface: str, addresses: Sequence[str]) -> None:
    with namespace.entered():
        for address in addresses:
            # nodad: nothing here waits for the detection of duplicate addresses.
            run("ip", "address", "add", address, "dev", interface, "nodad")
