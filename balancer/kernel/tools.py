"""Running the machine's own tools: outside a narrow PATH too, in the C locale, with a time limit."""

import os
import shutil
import subprocess
from collections.abc import Sequence
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
    path = find_tool(arguments[0])
    if path is None:
        raise Rejected(f"The program {arguments[0]} is not installed. Nothing was changed.")
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
        raise OutcomeUnknown(
            f"{arguments[0]} did not finish within {timeout_seconds:g} seconds and was stopped."
        ) from error
    return Completed(code=done.returncode, output=done.stdout, errors=done.stderr)
