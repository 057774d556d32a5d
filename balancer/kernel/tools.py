"""Running the machine's own tools: outside a narrow PATH too, in the C locale, with a time limit."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from balancer.kernel.base import OutcomeUnknown, Rejected

SYSTEM_DIRECTORIES = "/usr/sbin:/sbin:/usr/bin:/bin"
READ_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    code: int
    output: str
    errors: str


def find_tool(name: str) -> str | None:
    """The path of `name`; a service's PATH often lacks /usr/sbin."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_DIRECTORIES}")


def run_tool(
    arguments: Sequence[str],
    *,
    text: str = "",
    timeout_seconds: float = READ_TIMEOUT_SECONDS,
    pass_fds: tuple[int, ...] = (),
    environment: dict[str, str] | None = None,
) -> Completed:
    """Runs one tool with `text` on its standard input and waits for it.

    Raises Rejected when the tool is not there, OutcomeUnknown when it had to be killed at the time limit.
    """
    path = _path_of(arguments[0])
    try:
        done = subprocess.run(
            [path, *arguments[1:]],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout_seconds,
            pass_fds=pass_fds,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise OutcomeUnknown(_too_slow(arguments[0], timeout_seconds)) from error
    return Completed(code=done.returncode, output=done.stdout, errors=done.stderr)


def read_lines(arguments: Sequence[str], *, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> Iterator[str]:
    """What a tool that only reads prints, line by line: for output that is too much to hold at once.

    Raises Rejected when the tool is not there or, behind its last line, when it failed; OutcomeUnknown when
    it had to be killed at the time limit.
    """
    tool = start_tool(arguments)
    watch = threading.Timer(timeout_seconds, tool.kill)
    watch.start()
    try:
        with tool:
            assert tool.stdout is not None
            assert tool.stderr is not None
            try:
                yield from tool.stdout
                errors = tool.stderr.read()
            except BaseException:  # also a reader that has seen enough: nobody empties the pipe any more
                tool.kill()
                raise
    finally:
        watch.cancel()
    if tool.returncode == -signal.SIGKILL:
        raise OutcomeUnknown(_too_slow(arguments[0], timeout_seconds))
    if tool.returncode != 0:
        raise Rejected(f"{arguments[0]} said: {errors.strip() or tool.returncode}")


def start_tool(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """A tool that only reads, with its output in pipes. Raises Rejected when it is not there."""
    return subprocess.Popen(
        [_path_of(arguments[0]), *arguments[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C"},
    )


def _path_of(name: str) -> str:
    path = find_tool(name)
    if path is None:
        raise Rejected(f"The program {name} is not installed. Nothing was changed.")
    return path


def _too_slow(name: str, timeout_seconds: float) -> str:
    return f"{name} did not finish within {timeout_seconds:g} seconds and was stopped."
