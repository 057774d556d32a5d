"""The demo as a whole: what it promises, and that nothing of it stays."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from balancer.lab.client import TIMED_OUT
from balancer.lab.namespaces import list_pids
from lbadmin.stack.checks import require_root
from lbadmin.stack.errors import CannotStart
from tests.scenarios.demo_runs import (
    END_SECONDS,
    Place,
    end,
    new_place,
    read_until,
    start,
    wait_until,
    wait_until_clean,
)
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.stack
CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    place: Place
    pid: int
    passwords: dict[str, str]
    watch: Stopwatch


PASSWORD_LINE = re.compile(r"^ {4}(viewer|editor|approver|operator|administrator) +(\S{16})$", re.MULTILINE)


def read_host_rules() -> list[str]:
    commands = (["iptables-legacy-save"], ["iptables-nft-save"])
    outputs = [subprocess.run(one, capture_output=True, text=True, check=True).stdout for one in commands]
    return [re.sub(r"^#.*$|\[\d+:\d+\]", "", output, flags=re.MULTILINE) for output in outputs]


def read_counts(output: str) -> dict[tuple[str, str], list[int]]:
    """(rules, balancer) -> the counts of the four backends, then those lost."""
    rows = re.findall(r"^(.+?)\s{2,}(lb\d) \w+((?:\s+\d+){5})", output, re.MULTILINE)
    return {(title, balancer): [int(n) for n in numbers.split()] for title, balancer, numbers in rows}


def test_once_measures_what_is_promised_and_leaves_nothing(place: Place) -> None:
    rules = read_host_rules()
    run = start("demo", "--once", *place.arguments)
    output, complaint = run.communicate(timeout=5 * END_SECONDS)
    assert run.returncode == 0, output + complaint
    counts = read_counts(output)
    for balancer in ("lb1", "lb2"):
        assert counts["round-robin", balancer] == [100, 100, 100, 100, 0]
        assert counts["round-robin, 3:1:1:1", balancer] == [198, 66, 66, 66, 0]
        assert counts["rolled back to revision 1", balancer] == [100, 100, 100, 100, 0]
        assert sum(counts["random", balancer][:4]) == 400
        for method in ("article, method 1", "article, method 2"):
            assert 70 <= counts[method, balancer][4] <= 190
    assert place.is_clean(), (place.namespaces(), place.processes())
    assert read_host_rules() == rules


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A demo that stays, for the tests that look at one; stopped as by `kill`."""
    with new_place() as place:
        run, watch = start("demo", *place.arguments), Stopwatch()
        welcome = read_until(run, "Ctrl-C ends the demo")
        passwords = dict(PASSWORD_LINE.findall(welcome))
        yield Running(place=place, pid=run.pid, passwords=passwords, watch=watch)
        assert run.poll() is None
        assert end(run, signal.SIGTERM)[0] == 0
        assert place.is_clean(), (place.namespaces(), place.processes())


def test_every_role_has_a_password_of_its_own_and_the_console_answers(running: Running) -> None:
    assert len(running.passwords) == len(set(running.passwords.values())) == 5
    with urllib.request.urlopen(f"http://127.0.0.1:{running.place.port}/login/", timeout=END_SECONDS) as page:
        assert page.status == 200


def test_the_background_traffic_of_the_demo_is_answered_without_loss(running: Running) -> None:
    status = running.place.state_dir / "traffic.json"
    wait_until(
        lambda: status.exists() and b"10.0.0.6:80" in status.read_bytes(),
        what=status.exists,
        seconds=END_SECONDS,
    )
    targets = json.loads(status.read_bytes())["targets"]
    assert set(targets) == {"10.0.0.1:80", "10.0.0.2:80"}
    lost = {why for target in targets.values() for why in target["lost"]}
    # Its clients wait for a second, in which a busy machine may have had other things to do.
    assert lost <= ({TIMED_OUT} if running.watch.stalled > 1 else set())


def test_a_second_demo_in_the_same_place_is_refused_and_the_first_goes_on(running: Running) -> None:
    second = start("demo", *running.place.arguments)
    _, complaint = second.communicate(timeout=END_SECONDS)
    assert (second.returncode, complaint.count("\n")) == (2, 1)
    assert f"in use by process {running.pid}" in complaint
    assert len(running.place.namespaces()) == 4
    assert len(running.place.processes()) >= 10


def test_a_killed_worker_comes_back_and_finds_its_node_in_order(running: Running) -> None:
    inside = f"{running.place.prefix}lb1"
    worker = list_pids(name=inside)
    assert worker
    seen = read_last_seen(running.place)
    for pid in worker:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: read_last_seen(running.place) > seen,
        what=lambda: read_last_seen(running.place),
        seconds=END_SECONDS,
    )
    assert not set(worker) & set(list_pids(name=inside))
    assert count_revisions(running.place) == [0, 1]


def test_a_stopped_demo_leaves_nothing_and_starts_again(place: Place) -> None:
    """After it was up, and while it starts; a campaign lets it come up both times."""
    for number, is_up in ((signal.SIGINT, True), (signal.SIGHUP, CAMPAIGN)):
        run = start("demo", *place.arguments)
        if is_up:
            read_until(run, "Ctrl-C ends the demo")
        else:
            wait_until(lambda: has_workers(place), what=place.processes, seconds=END_SECONDS)
        status, rest = end(run, number)
        assert (status, "everything is removed" in rest) == (0, True), rest
        assert place.is_clean(), (place.namespaces(), place.processes())


@pytest.mark.parametrize("seconds", [0.0, 1.0, 3.0, 6.0] if CAMPAIGN else [0.0, 3.0])
def test_a_demo_killed_while_it_starts_leaves_nothing(place: Place, seconds: float) -> None:
    run = start("demo", "--once", *place.arguments)
    wait_until(lambda: bool(place.namespaces()), what=place.processes, seconds=END_SECONDS)
    time.sleep(seconds)  # not a wait for something, but the moment at which it is killed
    end(run, signal.SIGKILL)
    wait_until_clean(place)


def test_a_port_that_is_taken_is_said_in_one_sentence_and_nothing_is_built(place: Place) -> None:
    with socket.create_server(("127.0.0.1", place.port)):
        run = start("demo", *place.arguments)
        output, complaint = run.communicate(timeout=END_SECONDS)
    assert run.returncode == 2
    assert output == ""
    assert complaint == (
        f"Port {place.port} on 127.0.0.1 cannot be used (address already in use):"
        " stop what has it, or choose another one.\n"
    )
    assert place.is_clean()
    assert not place.state_dir.exists()


def test_a_directory_with_other_things_in_it_is_not_emptied(place: Place) -> None:
    place.state_dir.mkdir()
    precious = place.state_dir / "thesis.txt"
    precious.write_text("forty years of work")
    run = start("demo", *place.arguments)
    _, complaint = run.communicate(timeout=END_SECONDS)
    assert (run.returncode, complaint.count("\n")) == (2, 1)
    assert "has other things in it" in complaint
    assert precious.read_text() == "forty years of work"


def test_without_root_the_demo_says_what_to_run() -> None:
    reader, writer = os.pipe()
    child = os.fork()  # a checkout may be closed to other accounts, so all is loaded before the change
    if child == 0:
        os.setuid(65534)
        try:
            require_root(command="script/demo")
        except CannotStart as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        assert said.read().endswith("needs root: run  sudo script/demo")


def has_workers(place: Place) -> bool:
    return any("lbadmin.worker" in process for process in place.processes())


def read_last_seen(place: Place) -> str:
    with closing(sqlite3.connect(place.state_dir / "lbadmin.sqlite3")) as database:
        rows = database.execute(
            "select last_seen from balancer_node where name = 'lb1' and in_sync"
        ).fetchall()
    return str(rows[0][0]) if rows else ""


def count_revisions(place: Place) -> list[int]:
    with closing(sqlite3.connect(place.state_dir / "lbadmin.sqlite3")) as database:
        return [row[0] for row in database.execute("select number from balancer_revision order by number")]
