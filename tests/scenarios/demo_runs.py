"""Runs of the commands as a person runs them, and what they leave behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from balancer.lab.namespaces import NETNS_DIRECTORY
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 120.0
WITH_ITS_TEST = ("setpriv", "--pdeathsig", "TERM", "--")
"""In front of a command that is to be told to end when the tests are killed: a demo stays until it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A port, a state directory and a prefix that nobody else has."""

    port: int
    state_dir: Path
    prefix: str

    @property
    def arguments(self) -> list[str]:
        return ["--port", str(self.port), "--state-dir", str(self.state_dir), "--prefix", self.prefix]

    def namespaces(self) -> list[str]:
        if not NETNS_DIRECTORY.is_dir():
            return []
        return sorted(name for name in os.listdir(NETNS_DIRECTORY) if name.startswith(self.prefix))

    def processes(self) -> list[str]:
        """`pid command` of every process that was started with this place in its command or environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid() and self._is_ours(entry):
                command = _read(entry / "cmdline").replace(b"\0", b" ").decode()
                found.append(f"{entry.name} {command}")
        return found

    def is_clean(self) -> bool:
        return not self.namespaces() and not self.processes()

    def _is_ours(self, entry: Path) -> bool:
        marks = (str(self.state_dir).encode(), self.prefix.encode())
        text = _read(entry / "cmdline") + _read(entry / "environ")
        return any(mark in text for mark in marks)


@contextmanager
def new_place() -> Iterator[Place]:
    # Short, because the path of a unix socket is; and not there yet, as in a fresh checkout.
    parent = Path(tempfile.mkdtemp(prefix="lbs-"))
    place = Place(
        port=free_port(), state_dir=parent / "d", prefix=f"{parent.name.lower().replace('_', '-')}-"
    )
    try:
        yield place
    finally:
        shutil.rmtree(parent)


def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`manage.py NAME`, in a process group of its own as from a shell."""
    return subprocess.Popen(
        [*WITH_ITS_TEST, sys.executable, "manage.py", name, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it printed up to and with the line that has the text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    _, complaint = process.communicate()
    raise AssertionError(f"ended with {process.returncode} before “{text}”: {''.join(lines)}{complaint}")


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Its exit status and the rest of what it printed."""
    process.send_signal(number)
    output, complaint = process.communicate(timeout=END_SECONDS)
    return process.returncode, output + complaint


def wait_until(condition: Callable[[], bool], *, what: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds:g} s: {what()}"
        time.sleep(0.05)


def wait_until_clean(place: Place) -> None:
    wait_until(place.is_clean, what=lambda: (place.namespaces(), place.processes()), seconds=END_SECONDS)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
