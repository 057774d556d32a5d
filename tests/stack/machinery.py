"""Real processes for the stack tests: broker, PostgreSQL, workers in network namespaces, beat."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from lbadmin.stack.programs import find_broker, web_program
from tests.kernel.machine import Namespace

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
"""Seconds until something that has to happen counts as not happening; the machine may be busy. How soon it
has to happen is another matter, see tests/stopwatch.py."""


def eventually(condition: Callable[[], Any], *, what: str, within: float = PATIENCE) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {within:.0f} seconds"
        time.sleep(0.05)


def accepts(path: Path) -> bool:
    """Whether somebody listens at a unix socket; its file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


@contextmanager
def short_directory() -> Iterator[Path]:
    """Below the limit of 107 bytes for the path of a unix socket, and open to other accounts."""
    path = Path(tempfile.mkdtemp(prefix="lbw-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Process:
    """A program in a session of its own; at the end nothing of the session is left."""

    def __init__(
        self, *command: str, log: Path, env: Mapping[str, str], inside: Namespace | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            arguments: dict[str, Any] = {
                "cwd": ROOT,
                "env": dict(env),
                "stdin": subprocess.DEVNULL,
                "stdout": output,
                "stderr": output,
                "start_new_session": True,
            }
            guarded = [*_with_its_test("KILL"), *command]
            if inside is None:
                self._process = subprocess.Popen(guarded, **arguments)
            else:
                with inside.entered():
                    self._process = subprocess.Popen(guarded, **arguments)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def children(self) -> list[int]:
        try:
            return [
                int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    def kill(self) -> None:
        """This process alone: what it started lives on."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Asked to end; the code with which it does."""
        self._process.terminate()
        return self._process.wait(timeout=PATIENCE)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def running_broker(directory: Path) -> Iterator[str]:
    """The address of a broker that listens on a unix socket only."""
    path = directory / "broker.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(directory), "--save", ""]
    broker = Process(find_broker(), *options, log=directory / "broker.log", env=os.environ)
    try:
        eventually(lambda: accepts(path), what="the broker's start")
        yield f"redis+socket://{path}"
    finally:
        broker.close()


@contextmanager
def running_postgresql(directory: Path) -> Iterator[str]:
    """The address of an empty database on a new server, which has a unix socket only and is not root."""
    tools = postgresql_tools()
    data, user = directory / "data", _unprivileged_user()
    data.mkdir(mode=0o700)
    os.chown(data, user.pw_uid, user.pw_gid)
    os.chown(directory, user.pw_uid, user.pw_gid)
    as_user: dict[str, Any] = {
        "user": user.pw_uid,
        "group": user.pw_gid,
        "extra_groups": [],
        "cwd": directory,
    }
    initialise = [tools / "initdb", "--auth=trust", "--username=lbadmin", "--no-sync", "--encoding=UTF8"]
    subprocess.run([*initialise, "--locale=C", data], check=True, capture_output=True, **as_user)
    options = ["-D", data, "-k", directory, "-c", "listen_addresses=", "-c", "fsync=off"]
    with (directory / "postgresql.log").open("ab") as log:
        command = [*_with_its_test("QUIT"), tools / "postgres", *options]
        server = subprocess.Popen(command, stdout=log, stderr=log, **as_user)
    try:
        create = [tools / "createdb", "-h", directory, "-U", "lbadmin", "lbadmin"]
        eventually(
            lambda: subprocess.run(create, capture_output=True, **as_user).returncode == 0,
            what="the start of PostgreSQL",
        )
        yield f"postgres://lbadmin@{str(directory).replace('/', '%2F')}/lbadmin"
    finally:
        server.send_signal(signal.SIGQUIT)  # immediate shutdown, postgres(1): its files go next
        server.wait()


def postgresql_tools() -> Path:
    """Where Debian keeps the newest server's programs, or wherever PATH finds them."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    assert found, "The stack tests need PostgreSQL's server: run  sudo script/setup --test"
    return Path(found).parent


def _with_its_test(signal_: str) -> tuple[str, ...]:
    """In front of a command: the program gets this signal when the tests end, however they do."""
    return ("setpriv", "--pdeathsig", signal_, "--")


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("There is neither an account postgres nor an account nobody.")


@dataclass
class Stack:
    """One database, one broker, and the processes that were started on them."""

    directory: Path
    env: dict[str, str]
    broker: redis.Redis
    processes: list[Process] = field(default_factory=list)
    guards: dict[str, Process] = field(default_factory=dict)

    def worker(self, node: str, *, inside: Namespace, guarded: bool = True, **env: str) -> Process:
        """The worker of a node as the stack of a real host starts it, with its guard unless that runs."""
        if guarded and not (node in self.guards and self.guards[node].runs):
            self.guard(node, inside=inside, **env)
        return self._start("worker", self._environment(node) | env, name=node, inside=inside)

    def guard(self, node: str, *, inside: Namespace, **env: str) -> Process:
        """The guard of a node, beside its worker."""
        name = f"{node}.guard"
        found = self._start("guard", self._environment(node) | env, name=name, inside=inside)
        self.guards[node] = found
        return found

    def health(self, node: str, *, inside: Namespace, **env: str) -> Process:
        """The health daemon of a node, beside its worker."""
        return self._start("health", self._environment(node) | env, name=f"{node}.health", inside=inside)

    def guard_directory(self, node: str) -> Path:
        return self.directory / f"{node}.guarded"

    def _environment(self, node: str) -> dict[str, str]:
        return self.env | {
            "XTABLES_LOCKFILE": str(self.directory / f"{node}.xtables"),
            "LBADMIN_LOCK_DIR": str(self.directory / f"{node}.locks"),
            "LBADMIN_GUARD_DIR": str(self.guard_directory(node)),
            "LBADMIN_NODE": node,
        }

    def web(self, *, workers: int) -> Path:
        """The console as the stack of a real host starts it, in several processes; its unix socket."""
        path = self.directory / "web.sock"
        command = [*web_program(bind=f"unix:{path}", user=None).command, "--workers", str(workers)]
        self.processes.append(Process(*command, log=self.directory / "web.log", env=self.env))
        eventually(lambda: accepts(path), what="the start of the console")
        return path

    def beat(self) -> Process:
        return self._start("beat", self.env, name="beat")

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-4000:]}" for p in self.directory.glob("*.log"))

    def close(self) -> None:
        for process in self.processes:
            process.close()

    def _start(
        self, module: str, env: Mapping[str, str], *, name: str, inside: Namespace | None = None
    ) -> Process:
        log = self.directory / f"{name}.log"
        process = Process(sys.executable, "-m", f"lbadmin.{module}", log=log, env=env, inside=inside)
        self.processes.append(process)
        return process
