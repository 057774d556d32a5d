"""Named network namespaces: make, list the processes in, remove. Standard library only."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from balancer.lab.errors import LabError

NETNS_DIRECTORY = Path("/run/netns")
KILL_SECONDS = 5.0
_LINK_SECONDS = 15.0
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")


def create_namespaces(*, names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise LabError(f"“{name}” cannot name a namespace: use a-z, 0-9, “-” and “.”.")
    run_ip(arguments=["-batch", "-"], text="".join(f"netns add {name}\n" for name in names))


def remove_namespaces(*, names: Iterable[str]) -> None:
    """Kill every process that lives in the namespaces, then delete them. Names that are gone are fine."""
    present = [name for name in names if namespace_exists(name=name)]
    kill_processes(names=present)
    for name in present:
        run_ip(arguments=["netns", "delete", name])


def kill_processes(*, names: Sequence[str]) -> None:
    """SIGKILL until nobody is left: a process may fork between the look and the signal."""
    deadline = time.monotonic() + KILL_SECONDS
    while pids := [pid for name in names for pid in list_pids(name=name)]:
        if time.monotonic() > deadline:
            raise LabError(f"Processes {pids} in the namespaces {', '.join(names)} do not end.")
        for pid in pids:
            _kill(pid)
        time.sleep(0.01)


def list_pids(*, name: str) -> tuple[int, ...]:
    """The processes whose network namespace this is.

    Never those of the caller's own namespace nor of PID 1's: a name that was attached to the host's
    namespace must not get the host's processes killed.
    """
    target = _identity(NETNS_DIRECTORY / name)
    if target is None or target in (_identity(Path("/proc/self/ns/net")), _identity(Path("/proc/1/ns/net"))):
        return ()
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return tuple(pid for pid in pids if _identity(Path(f"/proc/{pid}/ns/net")) == target)


def namespace_exists(*, name: str) -> bool:
    return os.path.lexists(NETNS_DIRECTORY / name)


def run_ip(*, arguments: Sequence[str], text: str | None = None) -> str:
    """Run iproute2; its output, or LabError with its own words where it refuses."""
    try:
        done = subprocess.run(["ip", *arguments], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError("The command “ip” is missing. Install the package iproute2.") from None
    if done.returncode:
        raise LabError(f"“{_name_command(arguments, text, done.stderr)}” failed: {done.stderr.strip()}")
    return done.stdout


def wait_for_links(*, name: str) -> None:
    """A bridge drops frames until the kernel's link watch has seen a port come up."""
    deadline = time.monotonic() + _LINK_SECONDS
    while "state DOWN" in run_ip(arguments=["-n", name, "-oneline", "link", "show"]):
        if time.monotonic() > deadline:
            raise LabError(f"The links in the namespace {name} do not come up.")
        time.sleep(0.005)


def _name_command(arguments: Sequence[str], text: str | None, complaint: str) -> str:
    """Of a batch the line that ip complains of."""
    failed = re.search(r"Command failed -:(\d+)", complaint)
    if failed is None or text is None:
        return f"ip {' '.join(arguments)}"
    return f"ip {text.splitlines()[int(failed[1]) - 1]}"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
