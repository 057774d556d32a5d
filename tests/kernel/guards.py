"""A guard's files, clock and loop, for tests that turn the loop by hand."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from balancer.domain.codec import digest_text, dump_document, load_document
from balancer.domain.types import Document
from balancer.kernel.base import Kernel
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import Candidate, FileGuard
from balancer.kernel.guard_files import open_lock, try_lock
from balancer.kernel.guard_state import Confirmed, GuardDirectory
from balancer.kernel.guardian import Guardian
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from tests.kernel.machine import document, service

NETWORK = 4711


def confirmed(number: int, *ports: int) -> Confirmed:
    """A revision with a service at each of these ports."""
    found = document(*(service(f"s{port}", port=port) for port in ports))
    text = dump_document(found)
    rulesets = {"ipv4": render_ruleset(compile_document(found))}
    return Confirmed(
        cluster="edge", revision=number, digest=digest_text(text), document=text, rulesets=rulesets
    )


def candidate(number: int, *, job: str = "job") -> Candidate:
    return Candidate(job=job, cluster="edge", revision=number, digest=str(number))


@dataclass
class Machine:
    """A node's disk, clock and kernel; a guard is started on it, killed, and started again."""

    path: Path
    kernel: Kernel = field(default_factory=FakeKernel)
    now: float = 5000.0
    boot_id: str = "first-boot"
    stamp: str = "2026-01-01T00:00:00+00:00"
    guardian: Guardian | None = None
    kernels: Sequence[Kernel] = ()
    lock: int | None = None

    @property
    def files(self) -> GuardDirectory:
        return GuardDirectory(self.path)

    def start(self) -> Guardian:
        self.files.prepare()
        self.lock = open_lock(self.path / "guard.lock")
        assert try_lock(self.lock, exclusive=True)
        self.guardian = Guardian(
            files=self.files,
            kernels=self.kernels or (self.kernel,),
            clock=lambda: self.now,
            boot_id=self.boot_id,
            network=NETWORK,
            stamp=lambda: self.stamp,
        )
        return self.guardian

    def kill(self) -> None:
        assert self.lock is not None
        os.close(self.lock)
        self.guardian = self.lock = None

    def worker_side(self) -> FileGuard:
        return FileGuard(
            directory=self.path,
            clock=lambda: self.now,
            boot_id=self.boot_id,
            pause=lambda _: self.tick(),
            network=NETWORK,
        )

    def tick(self) -> None:
        if self.guardian is not None:
            self.guardian.tick()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    def reboot(self) -> None:
        """An empty kernel, another boot id, a clock that begins anew."""
        self.kill()
        self.kernel, self.now, self.boot_id = FakeKernel(), 10.0, "second-boot"

    def sync(self, state: Confirmed) -> None:
        found = document_of(state)
        self.kernel.sync(ruleset=compile_document(found), document=found)

    def carries(self, state: Confirmed) -> bool:
        return self.kernel.compare(ruleset=compile_document(document_of(state))).in_sync


def document_of(state: Confirmed) -> Document:
    found = load_document(state.document)[0]
    assert found is not None
    return found
