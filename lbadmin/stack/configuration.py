"""supervisord's configuration, from values. Pure: nothing is read or written here."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

UNSAFE_IN_PATHS = "\"'%;\n"
"""Characters that supervisord's file format gives a meaning to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process that is kept running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """In addition to supervisord's own."""
    user: str | None = None
    """None runs it as the user of supervisord, root."""
    first: bool = False
    """Started before all others, and stopped after them."""
    stop_seconds: int = 10
    """Time to end in good order before it is killed with its children."""


def render_configuration(*, programs: Sequence[Program], directory: Path, working_directory: Path) -> str:
    """The file for `supervisord --nodaemon`. `directory` takes its socket, pid and logs."""
    parts = [_supervisor(directory)]
    parts.append(_group([one for one in programs if not one.first]))
    parts += [_program(one, directory=directory, working=working_directory) for one in programs]
    return "\n".join(parts)


def log_path(*, directory: Path, name: str) -> Path:
    return directory / f"{name}.log"


def socket_path(*, directory: Path) -> Path:
    return directory / "supervisor.sock"


def _supervisor(directory: Path) -> str:
    socket = socket_path(directory=directory)
    return f"""\
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}

[supervisord]
nodaemon=true
silent=true
user=root
umask=077
minfds=256
logfile={log_path(directory=directory, name="supervisord")}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={directory / "supervisord.pid"}
childlogdir={directory}
"""


def _group(programs: Sequence[Program]) -> str:
    """Programs of one group are stopped at the same time, those of different groups one after the other."""
    return f"[group:lbadmin]\nprograms={','.join(one.name for one in programs)}\npriority=2\n"


def _program(program: Program, *, directory: Path, working: Path) -> str:
    # The child is told to end when supervisord dies, even by kill -9: nobody else would know of it.
    command = shlex.join(["setpriv", "--pdeathsig", "TERM", "--", *program.command])
    environment = ",".join(f'{name}="{value}"' for name, value in sorted(program.environment.items()))
    lines = [
        f"[program:{program.name}]",
        f"command={_escape(command)}",
        f"directory={working}",
        *([f"environment={_escape(environment)}"] if environment else []),
        *([f"user={program.user}"] if program.user else []),
        f"priority={1 if program.first else 2}",
        "autorestart=true",
        "startsecs=1",
        # It waits longer after each failure, and never gives up.
        "startretries=1000000",
        f"stopwaitsecs={program.stop_seconds}",
        "killasgroup=true",
        "redirect_stderr=true",
        f"stdout_logfile={log_path(directory=directory, name=program.name)}",
        "stdout_logfile_maxbytes=5MB",
        "stdout_logfile_backups=1",
        "",
    ]
    return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("%", "%%")
