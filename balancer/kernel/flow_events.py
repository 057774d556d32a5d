"""Entries that leave the kernel's connection table, heard as they go: `conntrack -E -e DESTROY` in a child.

The kernel tells whoever listens, and throws away what nobody takes in time (ENOBUFS). That is noticed, so
that nobody takes a part for the whole.
"""

import subprocess
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from balancer.kernel.flow_counts import Carried, Flow, read_entry
from balancer.kernel.tools import start_tool
from balancer.ruleset.compile import MARK_BALANCED

BUFFER_BYTES = 32 << 20
"""Some 20,000 entries that end at once; memory is used only while they wait."""
COMMAND = (
    "conntrack", "-E", "-e", "DESTROY", "-b", str(BUFFER_BYTES),
    "--mark", f"{MARK_BALANCED:#x}/{MARK_BALANCED:#x}",
)  # fmt: skip


class FlowEvents:
    """A context manager. A child that ends is started again by `take`, which says that something was lost."""

    def __init__(self, *, command: tuple[str, ...] = COMMAND) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._gone: dict[Flow, Carried] = {}
        self._lost = False
        self._child: subprocess.Popen[str] | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def take(self) -> tuple[dict[Flow, Carried], bool]:
        """What went since the last call, and whether some of it was not heard of."""
        child = self._child
        if child is None or child.poll() is not None:
            self._stop()
            self._start()
            with self._lock:
                self._lost = True
        with self._lock:
            gone, lost = self._gone, self._lost
            self._gone, self._lost = {}, False
        return gone, lost

    def _start(self) -> None:
        child = start_tool(self._command)
        assert child.stdout is not None
        assert child.stderr is not None
        self._child = child
        readers = ((self._hear, child.stdout), (self._hear_complaints, child.stderr))
        self._threads = [threading.Thread(target=run, args=(of,), daemon=True) for run, of in readers]
        for thread in self._threads:
            thread.start()

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()

    def _hear(self, lines: Iterable[str]) -> None:
        for line in lines:
            entry = read_entry(line)
            if entry is not None:
                entry[1].current = 0
                with self._lock:
                    self._gone.setdefault(entry[0], Carried()).add(entry[1])

    def _hear_complaints(self, lines: Iterable[str]) -> None:
        for line in lines:
            if "ENOBUFS" in line:
                with self._lock:
                    self._lost = True
