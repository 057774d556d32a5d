"""The record of a lab on disk: who owns which namespaces, so that a dead run is cleaned, a live one not."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from balancer.lab.errors import LabError
from balancer.lab.namespaces import namespace_exists, remove_namespaces

RECORDS = Path("/run/lbadmin-lab")
"""One directory for each lab, named by its prefix."""
REAPER_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that is not confused with a later one of the same number."""

    pid: int
    started: int
    """Clock ticks since boot, field 22 of /proc/PID/stat (proc(5))."""
    boot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    namespaces: tuple[str, ...]
    owner: Process
    reaper: Process | None = None


def claim_directory(*, directory: Path, namespaces: tuple[str, ...]) -> None:
    """Take the directory for a lab of the calling process, cleaning what a dead run left.

    LabError where a living process has it, or where a namespace of that name is nobody's.
    """
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(directory.parent / ".lock"):
        _clean_stale(directory=directory)
        taken = [name for name in namespaces if namespace_exists(name=name)]
        if taken:
            raise LabError(
                f"The network namespaces {', '.join(taken)} exist already, and this program did not make "
                f"them. Use another prefix, or remove them: ip netns delete {taken[0]}"
            )
        directory.mkdir(mode=0o700)
        write_record(
            directory=directory, record=Record(namespaces=namespaces, owner=identify_process(os.getpid()))
        )


def write_record(*, directory: Path, record: Record) -> None:
    path = directory / "record.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(record)))
    draft.rename(path)


def read_record(*, directory: Path) -> Record | None:
    try:
        data = json.loads((directory / "record.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    reaper = Process(**data["reaper"]) if data["reaper"] else None
    return Record(namespaces=tuple(data["namespaces"]), owner=Process(**data["owner"]), reaper=reaper)


def identify_process(pid: int) -> Process:
    """ProcessLookupError where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError as error:
        raise ProcessLookupError(pid) from error
    state, *rest = stat.rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError(pid)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Process(pid=pid, started=int(rest[18]), boot=boot)


def is_alive(process: Process) -> bool:
    try:
        return identify_process(process.pid) == process
    except ProcessLookupError:
        return False


def remove_lab(*, directory: Path, namespaces: Iterable[str]) -> None:
    """The namespaces, then the record: what fails stays recorded for the next try."""
    remove_namespaces(names=namespaces)
    shutil.rmtree(directory, ignore_errors=True)


def _clean_stale(*, directory: Path) -> None:
    deadline = time.monotonic() + REAPER_SECONDS
    while (record := read_record(directory=directory)) is not None:
        if is_alive(record.owner):
            raise LabError(
                f"A lab with the prefix “{directory.name}” is in use by process {record.owner.pid}. "
                "Stop that one first, or use another prefix."
            )
        if record.reaper is None or not is_alive(record.reaper):
            break
        if time.monotonic() > deadline:
            raise LabError(f"The lab “{directory.name}” of an earlier run is still being removed. Try again.")
        time.sleep(0.02)
    remove_lab(directory=directory, namespaces=record.namespaces if record else ())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
