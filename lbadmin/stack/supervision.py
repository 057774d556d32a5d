"""supervisord as a context: started, seen to be ready, watched, and gone at the end."""

import ctypes
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from supervisor.xmlrpc import SupervisorTransport

from lbadmin.stack.configuration import Program, log_path, render_configuration, socket_path
from lbadmin.stack.errors import CannotStart

READY_SECONDS = 60.0
GIVE_UP_SECONDS = 6.0
"""How long a program may fail again and again before its start counts as failed."""
STOP_SECONDS = 90.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

Probe = Callable[[], bool]


class Stack:
    """A context manager. Inside it every program runs; whatever ends is started again.

    `directory` takes configuration, socket and logs, and belongs to root. `environment` is what every program
    gets. `probes` say when the stack answers. Enter it in the main thread: supervisord ends with the thread
    that started it.
    """

    def __init__(
        self,
        *,
        programs: Sequence[Program],
        directory: Path,
        working_directory: Path,
        environment: Mapping[str, str],
        probes: Sequence[Probe] = (),
        keep_open: Sequence[int] = (),
    ) -> None:
        self._programs = tuple(programs)
        self._directory = directory
        self._working_directory = working_directory
        self._environment = dict(environment)
        self._probes = tuple(probes)
        self._keep_open = tuple(keep_open)
        self._process: subprocess.Popen[bytes] | None = None
        self._started: dict[str, int] = {}

    def __enter__(self) -> Self:
        configuration = self._write_configuration()
        parent = os.getpid()
        with log_path(directory=self._directory, name="supervisord").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(configuration)],
                cwd=self._working_directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=self._keep_open,
                # Ctrl-C goes to this process alone, which ends things in the right order.
                start_new_session=True,
                preexec_fn=lambda: _end_with(parent),
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every program in good order; returns when none is left."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait(self, *, seconds: float | None = None) -> bool:
        """Until supervisord ends by itself, which it should not; False where the time is over before that."""
        assert self._process is not None
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def states(self) -> dict[str, str]:
        """Program -> RUNNING, STARTING, BACKOFF and so on; empty while supervisord does not answer."""
        return {one["name"]: one["statename"] for one in self._ask()}

    def restarted(self) -> tuple[str, ...]:
        """Programs that ended since the stack was ready, whether or not they run again."""
        now = {one["name"]: one["pid"] for one in self._ask()}
        return tuple(name for name, pid in self._started.items() if now.get(name) != pid)

    def _write_configuration(self) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / "supervisord.conf"
        path.write_text(
            render_configuration(
                programs=self._programs,
                directory=self._directory,
                working_directory=self._working_directory,
            )
        )
        return path

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        failing: dict[str, float] = {}
        while True:
            if self.wait(seconds=0.1):
                raise CannotStart(f"supervisord ended at once. {self._last_words('supervisord')}")
            states = self.states()
            self._look_for_failures(states, failing)
            running = states and all(state == "RUNNING" for state in states.values())
            if running and all(probe() for probe in self._probes):
                self._started = {one["name"]: one["pid"] for one in self._ask()}
                return
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"The stack is not ready after {READY_SECONDS:g} s ({states}); see {self._directory}."
                )

    def _look_for_failures(self, states: Mapping[str, str], failing: dict[str, float]) -> None:
        now = time.monotonic()
        for name, state in states.items():
            if state == "RUNNING":
                failing.pop(name, None)
            elif state in {"BACKOFF", "FATAL", "EXITED"}:
                failing.setdefault(name, now)
        for name, since in failing.items():
            if now - since > GIVE_UP_SECONDS:
                raise CannotStart(f"The process “{name}” does not stay up. {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        path = log_path(directory=self._directory, name=name)
        try:
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        return f"Its last words: {lines[-1] if lines else 'none'}. The rest is in {path}."

    def _ask(self) -> list[dict[str, Any]]:
        transport = SupervisorTransport(serverurl=f"unix://{socket_path(directory=self._directory)}")
        server = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return server.supervisor.getAllProcessInfo()  # type: ignore[return-value]
        except (OSError, xmlrpc.client.Error):
            return []
        finally:
            transport.close()


def _end_with(parent: int) -> None:
    """In the child, before it becomes supervisord: end with TERM when the parent dies, however it dies."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0 or os.getppid() != parent:
        os._exit(1)
