"""Large packets find a narrow path: for that, ICMP errors about balanced connections have to come through."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from balancer.domain.types import Family
from tests.kernel.behaviours.lab import Lab
from tests.kernel.behaviours.machines import LAN
from tests.kernel.behaviours.services import FILTERED, FILTERED_NONE, PROXIED_SPARE
from tests.kernel.behaviours.stream import MUCH, carried
from tests.kernel.machine import Namespace, run

NARROW = 1280
"""The least of IPv6 (RFC 8200)."""
FAR = {Family.IPV4: ("192.0.2.1", "192.0.2.2", 24), Family.IPV6: ("2001:db8:77::1", "2001:db8:77::2", 64)}
"""The router, which is the client's machine, and the client behind it."""


class Far:
    """A client behind a router whose link to it is narrow, of which neither client nor backend knows."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._version = lab, "-4" if lab.family is Family.IPV4 else "-6"
        self._far = Namespace()
        router, client, bits = FAR[lab.family]
        nodad = ["nodad"] if lab.family is Family.IPV6 else []
        with lab.client.entered():
            there = f"/proc/{os.getpid()}/fd/{self._far.descriptor}"
            run("ip", "link", "add", "narrow", "type", "veth", "peer", "name", "eth0", "netns", there)
            run("ip", "address", "add", f"{router}/{bits}", "dev", "narrow", *nodad)
            run("ip", "link", "set", "narrow", "up", "mtu", str(NARROW))
            for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", key).write_text("1")
        with self._far.entered():
            run("ip", "address", "add", f"{client}/{bits}", "dev", "eth0", *nodad)
            run("ip", "link", "set", "eth0", "up")
            run("ip", self._version, "route", "add", "default", "via", router)
        with lab.node.entered():
            run("ip", self._version, "route", "add", client, "via", lab.places.client.format(0))
            run("ip", "link", "set", LAN, "mtu", str(NARROW))
        lab.iptables("-P", "FORWARD", "DROP")

    def connect(self, port: int) -> socket.socket:
        with self._far.entered():
            opened = self._lab.keep(socket.socket(self._lab.inet))
        opened.settimeout(5)
        opened.connect((self._lab.own(), port))
        return opened

    def path_of_backend(self, peer: str) -> str:
        with self._lab.backend.entered():
            return run("ip", self._version, "route", "get", peer)

    def path_of_client(self) -> str:
        with self._far.entered():
            return run("ip", self._version, "route", "get", self._lab.own())

    def forget_paths(self) -> None:
        for namespace in (self._lab.backend, self._far):
            with namespace.entered():
                run("ip", self._version, "route", "flush", "cache")

    def close(self) -> None:
        self._lab.iptables("-P", "FORWARD", "ACCEPT")
        with self._lab.node.entered():
            run("ip", "link", "set", LAN, "mtu", "1500")
            run("ip", self._version, "route", "del", FAR[self._lab.family][1])
        with self._lab.client.entered():
            run("ip", "link", "del", "narrow")
        self._far.close()


@contextmanager
def far_client(lab: Lab) -> Iterator[Far]:
    far = Far(lab)
    try:
        yield far
    finally:
        far.close()


def test_large_packets_find_a_narrow_path_to_clients_and_to_backends_whatever_is_filtered(lab: Lab) -> None:
    """With a FORWARD chain that drops, as Docker has it."""
    with far_client(lab) as far:
        for port in (FILTERED, FILTERED_NONE):
            listener = lab.listen(lab.live(1), port)
            far.forget_paths()
            client = far.connect(port)
            server = lab.keep(listener.accept()[0])
            server.settimeout(5)
            assert carried(server, client) == MUCH
            assert f"mtu {NARROW}" in far.path_of_backend(server.getpeername()[0])
            assert carried(client, server) == MUCH
            assert f"mtu {NARROW}" in far.path_of_client()


def test_behind_a_syn_proxy_segments_fit_into_a_narrow_path_from_the_beginning(lab: Lab) -> None:
    """Of an error that quotes sequence numbers of the proxy a backend takes no notice."""
    listener = lab.listen(lab.live(2), PROXIED_SPARE)
    with far_client(lab) as far:
        far.forget_paths()
        client = far.connect(PROXIED_SPARE)
        client.sendall(b"ask")
        server = lab.keep(listener.accept()[0])
        server.settimeout(5)
        assert server.recv(3) == b"ask"
        assert carried(server, client) == MUCH
        assert carried(client, server) == MUCH
