"""Where we may write, and who may write at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from balancer.kernel.base import Busy, DriverName, Flavour, ForeignNamespace, ensure_own_namespace
from balancer.kernel.lock import default_lock_directory, hold_writer_lock
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import Namespace, document, ruleset, save, service

SOURCE = Path(__file__).parents[2]


def _sync_as_pid_1(folder: Path, *, this_host: bool) -> subprocess.CompletedProcess[str]:
    """A process that is PID 1 of a PID namespace of its own, so that this network namespace is PID 1's."""
    code = (
        "import pathlib\n"
        "from tests.kernel.machine import document, ruleset, service\n"
        "from balancer.kernel.base import DriverName, Flavour\n"
        "from balancer.kernel.node import NodeKernel\n"
        "kernel = NodeKernel(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE,\n"
        f"    this_host={this_host}, sysctl_file=pathlib.Path({str(folder / 'sysctl.conf')!r}))\n"
        "kernel.sync(ruleset=ruleset(service()), document=document(service()))\n"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=SOURCE)


def test_the_namespace_of_pid_1_is_refused_until_it_is_said_to_be_meant(
    namespace: Namespace, tmp_path: Path
) -> None:
    refused = _sync_as_pid_1(tmp_path, this_host=False)
    assert "Refusing to write in the network namespace of PID 1" in refused.stderr
    assert save(Flavour.NFT) == ""

    meant = _sync_as_pid_1(tmp_path, this_host=True)
    assert meant.returncode == 0, meant.stderr
    assert "LB-S-web" in save(Flavour.NFT)


def test_another_namespace_is_allowed(namespace: Namespace) -> None:
    ensure_own_namespace(this_host=False)


def _proc(folder: Path, *, ours: str, init: str | None) -> Path:
    """A /proc in which the links to network namespaces are plain files."""
    names = {"thread-self": ours} | ({} if init is None else {"1": init})
    for name, namespace in names.items():
        (folder / name / "ns").mkdir(parents=True)
        (folder / namespace).touch()
        (folder / name / "ns" / "net").symlink_to(folder / namespace)
    return folder


def test_the_link_of_pid_1_decides(tmp_path: Path) -> None:
    ensure_own_namespace(this_host=False, proc=_proc(tmp_path / "other", ours="a", init="b"))
    same = _proc(tmp_path / "same", ours="a", init="a")
    with pytest.raises(ForeignNamespace, match="machine's own"):
        ensure_own_namespace(this_host=False, proc=same)
    ensure_own_namespace(this_host=True, proc=same)


def test_where_the_namespace_of_pid_1_cannot_be_read_the_answer_is_no_and_why(tmp_path: Path) -> None:
    with pytest.raises(ForeignNamespace, match="No such file or directory"):
        ensure_own_namespace(this_host=False, proc=_proc(tmp_path, ours="a", init=None))


def test_without_rights_over_pid_1_the_namespace_is_told_all_the_same(namespace: Namespace) -> None:
    # Root without one of the rights of PID 1 may not look at its namespaces; containers are often so.
    command = ["setpriv", "--bounding-set", "-sys_ptrace", sys.executable, "-c"]
    code = "from balancer.kernel.base import is_init_namespace; print(is_init_namespace())"
    done = subprocess.run([*command, code], capture_output=True, text=True, cwd=SOURCE, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_a_second_writer_waits_and_then_is_told_that_the_node_is_busy(namespace: Namespace) -> None:
    kernel = NodeKernel(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE, wait_seconds=0.2)
    with (
        hold_writer_lock(directory=default_lock_directory(), wait_seconds=1),
        pytest.raises(Busy, match="Another lbadmin process"),
    ):
        kernel.sync(ruleset=ruleset(service()), document=document(service()))
    assert save(Flavour.NFT) == ""
    assert kernel.sync(ruleset=ruleset(service()), document=document(service())).changed


def test_writers_of_different_namespaces_do_not_wait_for_each_other(namespace: Namespace) -> None:
    other = Namespace()
    directory = default_lock_directory()
    with (
        hold_writer_lock(directory=directory, wait_seconds=1),
        other.entered(),
        hold_writer_lock(directory=directory, wait_seconds=0),
    ):
        pass
    other.close()


def test_the_lock_stays_taken_while_a_child_of_a_killed_writer_still_writes(namespace: Namespace) -> None:
    directory = default_lock_directory()
    code = (
        "import subprocess, sys, pathlib\n"
        "from balancer.kernel.lock import hold_writer_lock\n"
        "with hold_writer_lock(directory=pathlib.Path(sys.argv[1]), wait_seconds=1) as lock:\n"
        "    child = subprocess.Popen(['cat'], pass_fds=(lock,), stdout=subprocess.PIPE)\n"
        "    print('ready', flush=True)\n"
        "    child.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=SOURCE,
    )
    assert parent.stdin
    assert parent.stdout
    assert parent.stdout.readline() == b"ready\n"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    with pytest.raises(Busy), hold_writer_lock(directory=directory, wait_seconds=0.1):
        pass
    parent.stdin.close()  # the child reads the end of its input, and ends
    parent.stdout.close()
    with hold_writer_lock(directory=directory, wait_seconds=5):
        pass


def test_a_writer_that_gives_up_leaves_the_lock_to_its_child(namespace: Namespace) -> None:
    directory = default_lock_directory()
    with hold_writer_lock(directory=directory, wait_seconds=1) as lock:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(Busy), hold_writer_lock(directory=directory, wait_seconds=0.1):
        pass
    child.communicate()
    with hold_writer_lock(directory=directory, wait_seconds=0):
        pass
