"""What health checks cost: `script/bench health [BACKENDS]`.

One other process answers for all backends, in a namespace of its own. Counted is the processor time of the
process that checks, kernel included; the figures are this machine's.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from balancer.domain.codec import parse_service
from balancer.domain.types import Service
from balancer.probes.health.engine import HealthEngine
from tests.kernel.machine import Namespace, run
from tests.probes.health.certificates import make_certificate

INTERVAL = 2
WARM_UP, SECONDS = 4.0, 10.0
PER_SERVICE = 500
KINDS: dict[str, dict[str, Any]] = {
    "tcp": {"kind": "tcp"},
    "http": {"kind": "http", "path": "/health"},
    "http, text": {"kind": "http", "path": "/health", "expect_body": "all is fine"},
    "udp": {"kind": "udp", "send": "ping", "expect": "ping"},
    "icmp": {"kind": "icmp"},
    "https": {"kind": "https", "path": "/health"},
}


def main(count: int) -> None:
    namespace = Namespace()
    with namespace.entered(), backends() as ports:
        print(f"{count} backends, each checked every {INTERVAL} s, over {SECONDS:g} s", flush=True)
        for name, fields in KINDS.items():
            health = {"interval": INTERVAL, "address": "127.0.0.1", **fields}
            if fields["kind"] in ports:
                health["port"] = ports[fields["kind"]]
            asyncio.run(measure(name, make_services(count, health=health)))
    namespace.close()


async def measure(name: str, services: tuple[Service, ...]) -> None:
    engine = HealthEngine(clock=lambda: datetime.now(UTC), look=lambda _: {})
    try:
        engine.set_services(services)
        await asyncio.sleep(WARM_UP)
        up = sum(standing.up is True for standing in engine.take_changes())
        used, started = time.process_time(), time.monotonic()
        await asyncio.sleep(SECONDS)
        used, took = time.process_time() - used, time.monotonic() - started
        each = used / (engine.size / INTERVAL * took)
        print(
            f"  {name:<12}{up:6} up  {used / took:6.1%} of one core  {each * 1e6:5.0f} µs a check", flush=True
        )
        down = [standing.reason for standing in engine.take_changes() if not standing.up]
        assert (up, down) == (engine.size, []), f"backends that answer were found down: {down[:3]}"
    finally:
        await engine.close()


def make_services(count: int, *, health: dict[str, Any]) -> tuple[Service, ...]:
    """As many services as it takes. What is asked is always the same address; backends only count."""
    found = []
    for first in range(0, count, PER_SERVICE):
        numbers = range(first, min(count, first + PER_SERVICE))
        backends = [{"address": f"10.0.{n >> 8}.{n & 255}", "port": 1 + n} for n in numbers]
        place = {"name": f"s{first}", "interface": "eth0", "protocol": "tcp", "port": 80}
        service, problems = parse_service({**place, "backends": backends, "health": health})
        assert service is not None, problems
        found.append(service)
    return tuple(found)


@contextmanager
def backends() -> Iterator[dict[str, int]]:
    """Ports by kind of what answers."""
    run("ip", "link", "set", "lo", "up")
    with TemporaryDirectory() as directory:
        certificate = make_certificate(Path(directory), days=90)
        command = [sys.executable, "-m", "tests.bench.health_backends", str(certificate)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                http, https, udp = map(int, process.stdout.readline().split())
                yield {"tcp": http, "http": http, "https": https, "udp": udp}
            finally:
                process.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
