"""A flood of SYNs from addresses of nobody, and what honest clients get done meanwhile.

`python -m tests.kernel.attacks.flood FAMILY HARDWARE ADDRESS PORT RATE SECONDS` sends it, out of eth0 of the
namespace that it is started in.
"""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path as FilePath

from balancer.domain.types import Family
from tests.kernel.attacks.craft import SYN, TCP, Path, ip, tcp
from tests.kernel.attacks.scene import NOBODY, Scene
from tests.kernel.behaviours.packets import ETHERTYPES, open_wire

PACKETS = 20_000
_ROOT = FilePath(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    sent: int
    """SYNs of the flood."""
    tried: int
    """Honest connections."""
    answered: int
    worst: float
    """Seconds that the slowest answered one took."""
    came: int
    """SYNs of the flood that a backend got."""
    cost: float
    """Seconds of processor time for each SYN: a packet crosses the node in the system call that sends it."""


def flood(
    scene: Scene, *, port: int, rate: int, seconds: float, honest: int, timeout: float = 3.0
) -> Outcome:
    """`honest` connections, spread over the time of the flood; each has `timeout` seconds to be answered."""
    took: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        try:
            with scene.connect(port, timeout=timeout) as one:
                one.sendall(b"ping")
                if one.recv(4) == b"ping":
                    took.append(time.monotonic() - began)
        except OSError:
            return

    before = scene.count(NOBODY[scene.family])
    with _sending(scene, port=port, rate=rate, seconds=seconds) as sender:
        time.sleep(seconds / 10)
        asking = []
        for _ in range(honest):
            asking.append(threading.Thread(target=ask))
            asking[-1].start()
            time.sleep(seconds * 0.8 / honest)
        for one in asking:
            one.join()
        sent, spent = map(float, sender.communicate(timeout=120)[0].split())
    return Outcome(
        sent=int(sent),
        tried=honest,
        answered=len(took),
        worst=max(took, default=0.0),
        came=scene.count(NOBODY[scene.family]) - before,
        cost=spent / sent,
    )


@contextmanager
def _sending(scene: Scene, *, port: int, rate: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    words = (scene.family, scene.hardware["attackers"].hex(), scene.service, port, rate, seconds)
    with scene.attacker.entered():
        sender = subprocess.Popen(
            [sys.executable, "-m", "tests.kernel.attacks.flood", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
    try:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        yield sender
    finally:
        sender.kill()
        sender.wait()


def main() -> None:
    family, hardware, address, port = Family(sys.argv[1]), bytes.fromhex(sys.argv[2]), *sys.argv[3:5]
    rate, seconds = int(sys.argv[5]), float(sys.argv[6])
    packets = make_syns(family, address, int(port))
    where = ("eth0", ETHERTYPES[family], 0, 0, hardware)
    sent = 0
    with open_wire("eth0", family=family) as wire:
        print("ready", flush=True)
        began, busy = time.monotonic(), time.process_time()
        # All of them, however long that takes a busy machine.
        while sent < rate * seconds:
            due = min((time.monotonic() - began) * rate, rate * seconds)
            while sent < due:
                wire.sendto(packets[sent % PACKETS], where)
                sent += 1
            time.sleep(0.001)
    print(sent, time.process_time() - busy)


def make_syns(family: Family, address: str, port: int) -> list[bytes]:
    chance = random.Random(6)
    network, to = NOBODY[family], ip_address(address)
    packets = []
    for _ in range(PACKETS):
        source = network[chance.randrange(1, min(network.num_addresses, 1 << 60))]
        path = Path(source=source, destination=to, source_port=chance.randrange(1024, 65536), port=port)
        packets.append(ip(path, TCP, tcp(path, SYN, seq=chance.randrange(1 << 32)), hops=64))
    return packets


if __name__ == "__main__":
    main()
