"""What `serve` and `demo` share: the environment of their processes, the database, and how they end."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from django.conf import settings
from django.core.management import call_command
from django.db import connection

from lbadmin.stack.account import Account, can_run, share_directory
from lbadmin.stack.checks import require_usable_paths
from lbadmin.stack.configuration import Program, socket_path
from lbadmin.stack.errors import CannotStart
from lbadmin.stack.probes import broker_answers, web_answers
from lbadmin.stack.programs import beat_program, broker_program, web_program
from lbadmin.stack.state import stack_directory
from lbadmin.stack.supervision import Stack

TREE = Path(settings.BASE_DIR)
STATE_DIR = Path(settings.STATE_DIR)
BROKER_SOCKET = STATE_DIR / "broker.sock"


def check_paths(*, state_dir: Path) -> None:
    sockets = (state_dir / "broker.sock", socket_path(directory=stack_directory(state_dir=state_dir)))
    require_usable_paths(paths=(TREE, state_dir), sockets=sockets)


def prepare_state(*, account: Account | None, or_root: bool = False) -> Account | None:
    """The tables, and the account's part of the state directory; the account that it turned out to be.

    An account that cannot use the tree is an error, or root takes its place where `or_root` says so.
    """
    call_command("migrate", verbosity=0, interactive=False)
    # Nothing may be open while the files change hands: SQLite would go on with the old owner's side files.
    connection.close()
    share_directory(directory=STATE_DIR, account=account)
    if account is None or can_run(account=account, tree=TREE, directory=STATE_DIR):
        return account
    if not or_root:
        raise CannotStart(
            f"The account {account.name} cannot read all of {TREE} or cannot write in {STATE_DIR}:"
            " put both where it can, or name another one with --user (root is possible)."
        )
    share_directory(directory=STATE_DIR, account=None)
    return None


def make_stack(
    *,
    host: str,
    port: int,
    account: Account | None,
    workers: Sequence[Program],
    lock: int,
    environment: Mapping[str, str],
    own_broker: bool = True,
) -> Stack:
    """Broker (unless there is one elsewhere), web, beat, and the workers."""
    user = account.name if account else None
    broker = broker_program(socket=BROKER_SOCKET, directory=STATE_DIR, user=user)
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    programs = [web_program(bind=bind, user=user), beat_program(user=user), *workers]
    probes = [partial(web_answers, host=_reachable(host), port=port)]
    if own_broker:
        programs.insert(0, broker)
        probes.insert(0, partial(broker_answers, path=BROKER_SOCKET))
    return Stack(
        programs=programs,
        directory=stack_directory(state_dir=STATE_DIR),
        working_directory=TREE,
        environment={**environment, "LBADMIN_STATE_DIR": str(STATE_DIR), "HOME": str(STATE_DIR)},
        probes=probes,
        keep_open=(lock,),
    )


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Ctrl-C, kill and a closed terminal end the body as KeyboardInterrupt; later ones are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def give_back_tree_state() -> None:
    """Loading the settings as root may have made `var` in somebody's checkout: it is the owner's."""
    owner = TREE.stat()
    default = TREE / "var"
    if (default / "stack").exists():
        return  # `serve` keeps its state there, and has settled whose it is
    for path in (default, default / "secret-key"):
        if path.exists() and not path.is_symlink() and path.stat().st_uid == 0:
            os.chown(path, owner.st_uid, owner.st_gid)


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
