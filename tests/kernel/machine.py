"""What the kernel tests share: throw-away namespaces, documents in one line, and the machine's own tools."""

import ctypes
import fcntl
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from balancer.domain.codec import parse_document
from balancer.domain.types import Document, Family
from balancer.kernel.base import Flavour
from balancer.kernel.flavour import tool_name
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import OWN_PREFIX, Ruleset

CLONE_NEWNET = 0x40000000
BACKENDS = ("10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6")

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace without a name: it is gone when the last descriptor of it is closed."""

    def __init__(self) -> None:
        home = _open_own()
        try:
            _check(_libc.unshare(CLONE_NEWNET))
            self.descriptor = _open_own()
        finally:
            _check(_libc.setns(home, CLONE_NEWNET))
            os.close(home)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and all that it starts, stands in this namespace."""
        home = _open_own()
        _check(_libc.setns(self.descriptor, CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET))
            os.close(home)

    def close(self) -> None:
        os.close(self.descriptor)


class Wires:
    """A client, the balancer and a machine that answers at every backend address, wired up.

    The balancer is 198.51.100.1 on eth0, where the client 198.51.100.2 is, and 10.0.0.1 on eth1.
    """

    service_address = "198.51.100.1"

    def __init__(self, balancer: Namespace) -> None:
        self.balancer, self.client, self.backend = balancer, Namespace(), Namespace()
        self._sockets: list[socket.socket] = []
        self._wire("eth0", "198.51.100.1/24", self.client, ["198.51.100.2/24"])
        self._wire("eth1", "10.0.0.1/24", self.backend, [f"{address}/24" for address in BACKENDS])

    def _wire(self, name: str, address: str, other: Namespace, others: Sequence[str]) -> None:
        far = f"/proc/{os.getpid()}/fd/{other.descriptor}"
        with self.balancer.entered():
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", far)
            run("ip", "address", "add", address, "dev", name)
            run("ip", "link", "set", name, "up")
        with other.entered():
            for text in others:
                run("ip", "address", "add", text, "dev", "eth0")
            run("ip", "link", "set", "eth0", "up")

    def listen_udp(self, *, port: int) -> dict[str, socket.socket]:
        """Backend address -> the socket that gets what is sent there."""
        with self.backend.entered():
            return {address: self._bound((address, port)) for address in BACKENDS}

    def udp_client(self, *, port: int, source: str = "198.51.100.2") -> socket.socket:
        """A client with a source port of its own that speaks to the service on `port`."""
        with self.client.entered():
            client = self._bound((source, 0))
        client.connect((self.service_address, port))
        return client

    def keep(self, opened: socket.socket) -> socket.socket:
        self._sockets.append(opened)
        return opened

    def _bound(self, address: tuple[str, int]) -> socket.socket:
        opened = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        opened.settimeout(30)
        opened.bind(address)
        return opened

    def close(self) -> None:
        for opened in self._sockets:
            opened.close()
        self.client.close()
        self.backend.close()


def ask_udp(client: socket.socket, backends: dict[str, socket.socket]) -> str:
    """Sends one datagram; the backend address that got it. Answers it, so that the flow is an assured one."""
    client.send(b"ask")
    poller = {opened.fileno(): address for address, opened in backends.items()}
    ready = _first_readable(list(poller))
    address = poller[ready]
    _, sender = backends[address].recvfrom(100)
    backends[address].sendto(b"answer", sender)
    assert client.recv(100) == b"answer"
    return address


def _first_readable(descriptors: list[int]) -> int:
    ready, _, _ = select.select(descriptors, [], [], 30)
    assert ready, "no backend got the datagram within 30 seconds"
    return int(ready[0])


def service(name: str = "web", /, **overrides: Any) -> dict[str, Any]:
    """A service as data: TCP port 80 on eth0 with four backends."""
    data: dict[str, Any] = {
        "name": name,
        "interface": "eth0",
        "protocol": "tcp",
        "port": 80,
        "backends": [{"address": address} for address in BACKENDS],
    }
    return data | overrides


def document(*services: dict[str, Any]) -> Document:
    found, problems = parse_document({"schema": 1, "services": list(services)})
    assert found is not None, problems
    return found


def ruleset(*services: dict[str, Any], family: Family = Family.IPV4) -> Ruleset:
    return compile_document(document(*services), family=family)


def run(*command: str, text: str | None = None, check: bool = True) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def save(flavour: Flavour, *, counters: bool = False, family: Family = Family.IPV4) -> str:
    """What the kernel holds, without the comments that carry the time, nor empty tables."""
    text = run(tool_name(flavour=flavour, verb="save", family=family), *(["-c"] if counters else []))
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#"))


def load(flavour: Flavour, text: str, *, counters: bool = False, family: Family = Family.IPV4) -> None:
    tool = tool_name(flavour=flavour, verb="restore", family=family)
    run(tool, "--noflush", "-w", "5", *(["-c"] if counters else []), text=text)


def foreign_part(text: str, *, without_chain: str | None = None) -> str:
    """A saved text without our chains, their rules and the jumps to them."""
    ours = (
        f":{OWN_PREFIX}",
        f"-A {OWN_PREFIX}",
        *([f":{without_chain} ", f"-A {without_chain} "] if without_chain else []),
    )
    lines = []
    for line in text.splitlines():
        rule = line.partition("] ")[2] if line.startswith("[") else line
        if not rule.startswith(ours) and not rule.split(" -j ")[-1].startswith(OWN_PREFIX):
            lines.append(line)
    return "\n".join(lines)


def own_part(text: str) -> dict[str, tuple[str, ...]]:
    """Table -> what a saved text without counters holds of ours."""
    parts: dict[str, tuple[str, ...]] = {}
    for block in text.split("COMMIT\n"):
        lines = block.splitlines()
        if lines:
            ours = [line for line in lines if OWN_PREFIX in line]
            parts[lines[0].removeprefix("*")] = tuple(ours)
    return parts


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Somebody else holds the lock at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wait_for_waiter(path: Path) -> None:
    """Until somebody waits for a flock on `path`: /proc/locks lists waiters with an arrow."""
    inode = f":{path.stat().st_ino} "
    deadline = time.monotonic() + 20
    while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
        assert time.monotonic() < deadline, f"nobody waited for {path} within 20 seconds"
        time.sleep(0.01)


def _open_own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
