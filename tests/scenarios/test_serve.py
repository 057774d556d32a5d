"""`manage.py serve` on a machine of its own: a network namespace stands in for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.lab.namespaces import create_namespaces, list_pids, remove_namespaces
from tests.scenarios.demo_runs import (
    END_SECONDS,
    ROOT,
    WITH_ITS_TEST,
    Place,
    end,
    read_until,
    start,
    wait_until,
)
from tests.scenarios.test_demo import read_host_rules

pytestmark = pytest.mark.stack


@pytest.fixture
def machine(place: Place) -> Iterator[str]:
    name = f"{place.prefix}host"
    create_namespaces(names=[name])
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        remove_namespaces(names=[name])


def test_without_a_word_for_it_no_worker_is_let_at_this_machine(place: Place) -> None:
    run = start("serve", "--bind", f"127.0.0.1:{place.port}", LBADMIN_STATE_DIR=str(place.state_dir))
    _, complaint = run.communicate(timeout=END_SECONDS)
    assert (run.returncode, complaint.count("\n")) == (2, 1)
    assert "say --this-host if that is meant" in complaint
    assert not (place.state_dir / "stack").exists()


def test_it_serves_this_host_and_only_worker_and_guard_have_the_licence_to_write(
    place: Place, machine: str
) -> None:
    rules = read_host_rules()
    inside = [*WITH_ITS_TEST, "ip", "netns", "exec", machine]
    serve = [sys.executable, "manage.py", "serve", "--this-host", "--bind", f"127.0.0.1:{place.port}"]
    run = subprocess.Popen(
        [*inside, *serve, "--node", "edge", "--user", "root"],
        cwd=ROOT,
        env={
            **os.environ,
            "LBADMIN_STATE_DIR": str(place.state_dir),
            "LBADMIN_LOCK_DIR": str(place.state_dir / "locks"),
            "LBADMIN_GUARD_DIR": str(place.state_dir / "guard"),
            "XTABLES_LOCKFILE": str(place.state_dir / "xtables.lock"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "First account: administrator, password" in read_until(run, "Ctrl-C stops it")
    wait_until(
        lambda: b"celery.apps.worker: edge@lbadmin ready" in read_log(place),
        what=lambda: read_log(place),
        seconds=END_SECONDS,
    )
    licensed = {
        name_of(pid) for pid in list_pids(name=machine) if b"LBADMIN_THIS_HOST=1" in read_environment(pid)
    }
    assert licensed == {"lbadmin.worker", "lbadmin.guard"}
    assert {"gunicorn", "lbadmin.beat"} <= {name_of(pid) for pid in list_pids(name=machine)}

    status, rest = end(run, signal.SIGTERM)
    assert status == 0, rest
    assert "stay there and go on balancing" in rest
    assert list_pids(name=machine) == ()
    assert read_host_rules() == rules


def read_log(place: Place) -> bytes:
    path = place.state_dir / "stack" / "worker-edge.log"
    return path.read_bytes() if path.exists() else b""


def read_environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def name_of(pid: int) -> str:
    """The module behind `python -m`, or the program."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("-m") + 1] if "-m" in words else words[0]
