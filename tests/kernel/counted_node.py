"""A node whose connections are counted, and the documents of a busy day there."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from balancer.domain.types import Document
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.counter_files import CounterFiles
from balancer.kernel.flow_events import BUFFER_BYTES, FlowEvents
from balancer.kernel.lock import default_lock_directory, hold_writer_lock
from balancer.kernel.meter import Meter
from balancer.kernel.node import NodeKernel
from balancer.kernel.sampler import Sampler
from balancer.ruleset.compile import compile_document
from tests.kernel.machine import document, load, save, service
from tests.kernel.many import PORT, Crowd

BACKENDS = 6


class Counted:
    """A node whose processes come and go; the directory stays."""

    def __init__(self, *, flavour: Flavour, driver: DriverName, directory: Path) -> None:
        self.flavour, self.driver, self.directory = flavour, driver, directory
        self.kernel = self.restart()

    def restart(self) -> NodeKernel:
        """A new process knows what is on the disk."""
        meter = Meter(directory=self.directory)
        self.kernel = NodeKernel(flavour=self.flavour, driver=self.driver, meter=meter, wait_seconds=10)
        return self.kernel

    @contextmanager
    def sampling(self, *, buffer_bytes: int = BUFFER_BYTES) -> Iterator[Sampler]:
        with FlowEvents(buffer_bytes=buffer_bytes) as events:
            yield Sampler(
                meter=Meter(directory=self.directory),
                flavour=self.flavour,
                lock_directory=default_lock_directory(),
                events=events,
            )

    def apply(self, wanted: Document) -> tuple[str, ...]:
        return self.kernel.sync(ruleset=compile_document(wanted), document=wanted).warnings

    def sample(self) -> tuple[str, ...]:
        """As the counting process does, which is another one."""
        meter = Meter(directory=self.directory)
        with hold_writer_lock(directory=default_lock_directory(), wait_seconds=10):
            meter.look(flavour=self.flavour, family=compile_document(Document()).family)
        return meter.take_warnings()

    def totals(self) -> dict[str, int]:
        """Endpoint -> new connections of all services since ever."""
        found: Counter[str] = Counter()
        for series in CounterFiles(self.directory).read().series.values():
            found[series.place[1]] += series.total
        return {endpoint: count for endpoint, count in found.items() if count}


def version(crowd: Crowd, number: int) -> Document:
    """The documents of a busy day: weights move, backends and services come and go, chains are redone."""
    backends = [
        {
            "address": str(crowd.plan.backend(index)),
            "port": PORT,
            "weight": 1 + (number + index) % 3,
            "state": "draining" if index == number % 5 else "enabled",
        }
        for index in range(BACKENDS)
        if index != number % (BACKENDS + 1)
    ]
    web = {"protocol": "udp", "port": PORT, "scheduler": "random", "backends": backends}
    if number % 4 == 3:
        web |= {"persistence": {"mode": "source", "timeout": 300 + number // 4 % 2}}
    other = service("other", port=8000 + number % 2)
    return document(service("dns", **web), *([other] if number % 3 else []))


def slip_rules_in(flavour: Flavour) -> None:
    """As somebody does by hand: into a chain that counts, and behind what decides."""
    chain = next(line.split()[1] for line in save(flavour).splitlines() if line.startswith("-A LB-S-dns:"))
    load(flavour, f"*nat\n-I {chain} 1 -s 192.0.2.77/32 -j RETURN\n-A LB-S-dns -j RETURN\nCOMMIT\n")
