import os
import re
import secrets
import socket
import sys
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand

from balancer.management.commands._stack import (
    STATE_DIR,
    check_paths,
    make_stack,
    prepare_state,
    stop_on_signals,
)
from balancer.models import Cluster, Node
from balancer.workflow.clusters import create_cluster, create_node, create_person
from balancer.workflow.errors import Refused
from lbadmin.stack.account import Account, find_account
from lbadmin.stack.checks import require_free_port, require_root, require_tools
from lbadmin.stack.configuration import Program
from lbadmin.stack.errors import CannotStart
from lbadmin.stack.programs import counters_program, guard_program, health_program, worker_program
from lbadmin.stack.state import lock_state

FIRST_CLUSTER = "main"
WILDCARDS = ("0.0.0.0", "::")
WORKER_VARIABLES = ("LBADMIN_NODE", "LBADMIN_THIS_HOST")
"""What only worker and guard may be told."""


class Command(BaseCommand):
    help = (
        "Run lbadmin on this machine: broker, console, beat and, with --this-host, the worker that writes"
        " this machine's own tables. Needs root; the console runs as the account behind sudo or --user."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--this-host", action="store_true", help="let the worker write this machine's own tables"
        )
        what.add_argument("--no-worker", action="store_true", help="console only; balancers are elsewhere")
        parser.add_argument(
            "--bind", default="127.0.0.1:8000", help="address and port of the console (127.0.0.1:8000)"
        )
        parser.add_argument("--user", help="account for console, beat and broker (the one behind sudo)")
        parser.add_argument("--node", default=node_name(socket.gethostname()), help="name of this node")
        parser.add_argument("--cluster", help=f"cluster of a node that is new ({FIRST_CLUSTER})")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with stop_on_signals():
                self._run(options)
        except (CannotStart, Refused) as error:
            self.stderr.write(str(error))
            sys.exit(2)
        except KeyboardInterrupt:
            self._say("Stopped. Rules that are in the kernel stay there and go on balancing.")

    def _run(self, options: dict[str, Any]) -> None:
        host, port = split_bind(options["bind"])
        _check(this_host=options["this_host"], no_worker=options["no_worker"])
        lock = lock_state(state_dir=STATE_DIR)
        require_free_port(host=host, port=port)
        account = find_account(asked=options["user"])
        os.umask(0o077)
        prepare_state(account=account)
        workers: list[Program] = []
        if options["this_host"]:
            ensure_node(name=options["node"], cluster_name=options["cluster"])
            workers += _node_programs(options["node"])
        stack = make_stack(
            host=host,
            port=port,
            account=account,
            workers=workers,
            lock=lock,
            environment=make_environment(host=host),
            own_broker="LBADMIN_REDIS_URL" not in os.environ,
        )
        with stack:
            # Not earlier: a password that was made before a start that fails would be told to nobody.
            password = create_first_administrator()
            self._welcome(host=host, port=port, password=password, account=account)
            stack.wait()
        raise CannotStart(f"supervisord has ended, which it should not; see {STATE_DIR / 'stack'}.")

    def _welcome(self, *, host: str, port: int, password: str | None, account: Account | None) -> None:
        self._say(f"The console is at http://{host}:{port}/. Logs are in {STATE_DIR / 'stack'}.")
        if password is not None:
            self._say(f"First account: administrator, password {password} (shown this once; change it).")
        if host in WILDCARDS and "LBADMIN_HOSTS" not in os.environ:
            self._say("It answers to localhost only until LBADMIN_HOSTS says under which names it is called.")
        if account is None:
            self._say("Console, beat and broker run as root; name an account for them with --user.")
        self._say("Ctrl-C stops it; rules that are in the kernel stay there.")

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def split_bind(text: str) -> tuple[str, int]:
    """`127.0.0.1:8000`, `[::1]:8000` or `:8000` as host and port."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CannotStart(f"“{text}” is no address and port; write for example --bind 127.0.0.1:8000.")
    return host.strip("[]") or "0.0.0.0", int(port)


def node_name(hostname: str) -> str:
    """A host name as the name of a node: lower-case letters, digits and hyphens."""
    plain = re.sub(r"[^a-z0-9]+", "-", hostname.partition(".")[0].lower()).strip("-")
    return plain[:63].strip("-") or "this-host"


def ensure_node(*, name: str, cluster_name: str | None) -> Node:
    """The node of this machine, made where it is missing, in the only cluster or the one that is named."""
    existing = Node.objects.filter(name=name).first()
    if existing is not None:
        return existing
    names = list(Cluster.objects.values_list("name", flat=True))
    if cluster_name is None and len(names) > 1:
        raise CannotStart(
            f"The node {name} is new: say with --cluster whether it is of {' or '.join(names)}."
        )
    wanted = cluster_name or (names[0] if names else FIRST_CLUSTER)
    cluster = Cluster.objects.filter(name=wanted).first() or create_cluster(actor=None, name=wanted)
    return create_node(actor=None, cluster=cluster, name=name)


def create_first_administrator() -> str | None:
    """The password of the first account; None where there are accounts already."""
    if User.objects.exists():
        return None
    password = secrets.token_urlsafe(12)
    create_person(actor=None, username="administrator", password=password, roles=("Administrator",))
    return password


def make_environment(*, host: str) -> dict[str, str]:
    """What every process gets; the licence to write this machine's tables is not in it."""
    environment = {name: value for name, value in os.environ.items() if name not in WORKER_VARIABLES}
    if host not in WILDCARDS:
        environment.setdefault("LBADMIN_HOSTS", ",".join(dict.fromkeys((host, "127.0.0.1", "localhost"))))
    return environment


def _check(*, this_host: bool, no_worker: bool) -> None:
    if not this_host and not no_worker:
        raise CannotStart(
            "The worker would write this machine's own tables: say --this-host if that is meant, or"
            " --no-worker for a console whose balancers are elsewhere."
        )
    require_root(command="script/server")
    require_tools(names=("setpriv", "iptables-save", "iptables-restore") if this_host else ("setpriv",))
    check_paths(state_dir=STATE_DIR)


def _node_programs(node: str) -> tuple[Program, ...]:
    """Guard and worker, which alone have the licence to write this machine's tables, health, and counters."""
    environment = {"LBADMIN_THIS_HOST": "1"}
    return (
        guard_program(node=node, environment=environment),
        worker_program(node=node, environment=environment),
        counters_program(node=node, environment={}),
        health_program(node=node, environment={}),
    )
