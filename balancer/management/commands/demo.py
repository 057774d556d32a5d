import dataclasses
import os
import shutil
import sys
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from balancer.lab.errors import LabError
from balancer.lab.machines import ARTICLE_BALANCERS
from balancer.lab.topology import DEFAULT_PREFIX, Lab
from balancer.lab.traffic import BackgroundTraffic
from balancer.management.commands import _measurements as measurements
from balancer.management.commands._cast import (
    Cast,
    NotDone,
    bring_live,
    create_cast,
    roll_back,
    wait_for_nodes,
)
from balancer.management.commands._stack import (
    STATE_DIR,
    TREE,
    check_paths,
    give_back_tree_state,
    make_stack,
    prepare_state,
    stop_on_signals,
)
from balancer.models import Cluster
from balancer.workflow.clusters import create_cluster, create_node
from balancer.workflow.errors import Refused
from balancer.workflow.revisions import document_of, live_revision
from lbadmin.stack.account import Account, find_account
from lbadmin.stack.checks import PACKAGES, require_free_port, require_root, require_tools
from lbadmin.stack.configuration import Program
from lbadmin.stack.errors import CannotStart
from lbadmin.stack.programs import counters_program, guard_program, health_program, worker_program
from lbadmin.stack.state import empty_state, lock_state, require_disposable

HOST = "127.0.0.1"
LOCK_VARIABLE = "LBADMIN_DEMO_LOCK"
"""Set in the second life of the command: the descriptor of the state directory's lock."""
SERVICE: dict[str, Any] = {
    "name": "web",
    "description": "The article's service",
    "interface": "eth0",
    "protocol": "tcp",
    "port": 80,
    "backends": [{"address": f"10.0.0.{last}"} for last in (3, 4, 5, 6)],
    "health": {"kind": "http", "interval": 1, "timeout": 1, "rise": 2, "fall": 3},
}
EVENLY = dict.fromkeys(measurements.BACKENDS, 100)
WEIGHTED = dict(zip(measurements.BACKENDS, (198, 66, 66, 66), strict=True))


class Command(BaseCommand):
    help = (
        "Show lbadmin at work: console, broker and workers over two balancers in network namespaces, with"
        " real traffic. Everything is removed at the end. Needs root."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--once",
            action="store_true",
            help="measure what is promised, print a table, end; 1 if it differs",
        )
        parser.add_argument("--port", type=int, default=8000, help="of the console on 127.0.0.1 (8000)")
        parser.add_argument(
            "--state-dir", type=Path, default=TREE / "var" / "demo", help="emptied at the start (var/demo)"
        )
        parser.add_argument(
            "--prefix", default=DEFAULT_PREFIX, help=f"of the namespaces' names ({DEFAULT_PREFIX})"
        )
        parser.add_argument("--user", help="account for console, beat and broker (the one behind sudo)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if LOCK_VARIABLE not in os.environ:
                _begin_anew(port=options["port"], state_dir=options["state_dir"].absolute())
            with stop_on_signals():
                self._run(options)
        except (CannotStart, LabError) as error:
            self._fail(str(error), status=2)
        except (NotDone, Refused) as error:
            self._fail(str(error), status=1)
        except KeyboardInterrupt:
            if options["once"]:
                self._fail("Stopped; everything is removed.", status=130)
            self._say("Stopped; everything is removed.")

    def _run(self, options: dict[str, Any]) -> None:
        started = time.monotonic()
        lock = int(os.environ.pop(LOCK_VARIABLE))
        os.set_inheritable(lock, False)
        account = find_account(asked=options["user"])
        with ExitStack() as undo:
            lab = undo.enter_context(_make_lab(prefix=options["prefix"]))
            account = prepare_state(account=account, or_root=options["user"] is None)
            cast, passwords = create_cast()
            cluster = _create_cluster(cast)
            stack = undo.enter_context(
                make_stack(
                    host=HOST,
                    port=options["port"],
                    account=account,
                    workers=[one for name in measurements.FLAVOURS for one in _node_programs(lab, name)],
                    lock=lock,
                    environment=os.environ,
                )
            )
            nodes = wait_for_nodes(
                names=tuple(measurements.FLAVOURS), is_alive=lambda: not stack.wait(seconds=0)
            )
            _require_drivers({name: node.facts for name, node in nodes.items()})
            if options["once"]:
                with Lab(prefix=f"{options['prefix']}article-") as article:
                    problems = self._measure(lab=lab, article=article, cast=cast, cluster=cluster)
                problems += [f"The process {name} did not stay up." for name in stack.restarted()]
            else:
                bring_live(cast=cast, cluster=cluster, title="The article's service", service=SERVICE)
                undo.enter_context(_make_traffic(lab))
                self._welcome(port=options["port"], passwords=passwords, account=account, lab=lab)
                stack.wait()
                raise NotDone(f"supervisord has ended, which it should not; see {STATE_DIR / 'stack'}.")
        self._conclude(problems, seconds=time.monotonic() - started)

    def _measure(self, *, lab: Lab, article: Lab, cast: Cast, cluster: Cluster) -> list[str]:
        """Every configuration of ours through the workflow; what differs from what is promised."""
        self._say(
            f"{measurements.CONNECTIONS} connections to each balancer (396 where weights are 3:1:1:1)\n"
        )
        self._say(measurements.head_line())
        problems = self._print(measurements.measure_article(lab=article))
        random = SERVICE | {"scheduler": "random"}
        heavy, *rest = SERVICE["backends"]
        weighted = SERVICE | {"backends": [heavy | {"weight": 3}, *rest]}

        def show(title: str, judge: measurements.Judge, count: int = measurements.CONNECTIONS) -> None:
            problems.extend(
                self._print(measurements.measure_ours(lab=lab, title=title, judge=judge, count=count))
            )
            problems.extend(_look_at_kernel(lab=lab, cluster=cluster))

        first = bring_live(cast=cast, cluster=cluster, title="The article's service", service=SERVICE)
        show("round-robin", measurements.judge_exact(EVENLY))
        bring_live(cast=cast, cluster=cluster, title="Random", service=random, edits="web")
        show("random", measurements.judge_random)
        bring_live(cast=cast, cluster=cluster, title="Weights 3:1:1:1", service=weighted, edits="web")
        show("round-robin, 3:1:1:1", measurements.judge_exact(WEIGHTED), count=396)
        roll_back(cast=cast, revision=first)
        show(f"rolled back to revision {first.number}", measurements.judge_exact(EVENLY))
        self._say(
            f"\nAfter each step the kernel was compared with what is live, now {live_revision(cluster)}."
        )
        return problems

    def _print(self, rows: list[measurements.Row]) -> list[str]:
        for row in rows:
            self._say(measurements.row_line(row))
        return [f"{row.title} on {row.balancer}: {row.problem}" for row in rows if row.problem]

    def _welcome(self, *, port: int, passwords: dict[str, str], account: Account | None, lab: Lab) -> None:
        self._say(f"\nThe console is at http://{HOST}:{port}/ with these accounts, until the demo ends:\n")
        for name, password in passwords.items():
            self._say(f"    {name:<15}{password}")
        self._say("\nBalancers: lb1 (legacy, python-iptables) 10.0.0.1, lb2 (nft, iptables-restore) 10.0.0.2")
        client = " ".join(lab.command(machine="client", command=["curl", "http://10.0.0.1/"]))
        self._say(f"One more connection: sudo {client}")
        self._say(f"A backend dies:      sudo {' '.join(lab.dying(backend='10.0.0.3'))}")
        self._say(f"It comes back:       sudo {' '.join(lab.reviving(backend='10.0.0.3'))}")
        self._say(f"Console, beat and broker run as {account.name if account else 'root'}; logs are in "
                  f"{STATE_DIR / 'stack'}")  # fmt: skip
        self._say("Ctrl-C ends the demo and removes everything.\n")

    def _conclude(self, problems: list[str], *, seconds: float) -> None:
        if problems:
            for problem in problems:
                self.stderr.write(problem)
            self._fail(f"\nNot as promised, in {len(problems)} points. {seconds:.1f} s.", status=1)
        self._say(f"\nAll as promised, and everything is removed. {seconds:.1f} s.")

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def _fail(self, text: str, *, status: int) -> None:
        self.stderr.write(text)
        sys.exit(status)


def _begin_anew(*, port: int, state_dir: Path) -> None:
    """Check everything, empty the state directory, and start this command again with settings of its own."""
    require_root(command="script/demo")
    give_back_tree_state()
    require_tools(names=PACKAGES)
    check_paths(state_dir=state_dir)
    require_disposable(state_dir=state_dir)
    is_new = not state_dir.exists()
    # The lock first: a demo that was killed may still be about to free its port.
    lock = lock_state(state_dir=state_dir)
    try:
        require_free_port(host=HOST, port=port)
    except CannotStart:
        if is_new:
            shutil.rmtree(state_dir)
        raise
    empty_state(state_dir=state_dir)
    # Nothing that this shell says of another lbadmin, its database for one, may reach the demo.
    foreign = ("LBADMIN_", "DATABASE_URL", "DJANGO_SETTINGS_MODULE", "XTABLES_LOCKFILE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    os.set_inheritable(lock, True)
    os.umask(0o077)
    own = {"LBADMIN_STATE_DIR": str(state_dir), LOCK_VARIABLE: str(lock)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment | own)


def _make_lab(*, prefix: str) -> Lab:
    # Forwarding is off, so that it is the workers who turn it on.
    balancers = tuple(dataclasses.replace(one, forwarding=False) for one in ARTICLE_BALANCERS)
    return Lab(prefix=prefix, balancers=balancers)


def _create_cluster(cast: Cast) -> Cluster:
    cluster = create_cluster(
        actor=cast.administrator, name="demo", description="Two balancers in network namespaces"
    )
    for name, driver in measurements.DRIVERS.items():
        create_node(
            actor=cast.administrator,
            cluster=cluster,
            name=name,
            description=f"{measurements.FLAVOURS[name]}, through {driver}",
            driver=driver,
        )
    return cluster


def _node_programs(lab: Lab, name: str) -> tuple[Program, ...]:
    """Guard, worker, health daemon and what counts."""
    environment = {
        "LBADMIN_FLAVOUR": measurements.FLAVOURS[name],
        "LBADMIN_LOCK_DIR": str(lab.directory),
        "LBADMIN_GUARD_DIR": str(lab.directory / f"guard-{name}"),
        "XTABLES_LOCKFILE": lab.environment(machine=name)["XTABLES_LOCKFILE"],
    }
    inside = lab.command(machine=name, command=[])
    return (
        guard_program(node=name, environment=environment, inside=inside),
        worker_program(node=name, environment=environment, inside=inside),
        counters_program(node=name, environment=environment, inside=inside),
        health_program(node=name, environment=environment, inside=inside),
    )


def _make_traffic(lab: Lab) -> BackgroundTraffic:
    targets = [(balancer.lan_address, SERVICE["port"]) for balancer in lab.topology.balancers]
    return BackgroundTraffic(lab=lab, targets=targets, status_path=STATE_DIR / "traffic.json")


def _require_drivers(facts: dict[str, dict[str, Any]]) -> None:
    for name, expected in measurements.DRIVERS.items():
        if facts[name]["driver"] != expected:
            raise NotDone(
                f"{name} uses {facts[name]['driver']}, not {expected}: {facts[name]['driver_reason']}"
            )


def _look_at_kernel(*, lab: Lab, cluster: Cluster) -> list[str]:
    return measurements.differences(lab=lab, document=document_of(live_revision(cluster)))
