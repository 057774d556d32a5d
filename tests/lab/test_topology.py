"""The lab stands, and leaves nothing, however its owner ends; the host's own namespace stays as it was."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from balancer.lab.errors import LabError
from balancer.lab.machines import Balancer, Topology
from balancer.lab.namespaces import create_namespaces, list_pids, namespace_exists, remove_namespaces
from balancer.lab.record import read_record
from balancer.lab.topology import Lab
from balancer.lab.traffic import open_connections, send_datagrams
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel

HOST_STATE = (
    ["ip", "-oneline", "link"],
    ["ip", "-oneline", "address"],
    ["ip", "route", "show", "table", "all"],
    ["ip", "rule"],
    ["sysctl", "net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.all.arp_announce"],
)


def own_namespaces(prefix: str) -> list[str]:
    return [name for name in Topology(prefix=prefix).namespaces if namespace_exists(name=name)]


def wait_until(condition: Callable[[], bool], *, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s: {what}"
        time.sleep(0.02)


def read_host() -> list[str]:
    """Without the seconds that are left of addresses and routes which somebody lent to this machine."""
    outputs = [subprocess.run(one, capture_output=True, text=True, check=True).stdout for one in HOST_STATE]
    return [re.sub(r"(_lft|expires) \w+", r"\1", output) for output in outputs]


@contextmanager
def lab_owner(prefix: str, records: Path, mode: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The owner of a standing lab, and the pid of its child (0 without)."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.lab.owner", prefix, str(records), mode],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        yield owner, int(owner.stdout.readline())
    finally:
        owner.kill()
        owner.communicate()


def end_owner(owner: subprocess.Popen[str], number: signal.Signals) -> None:
    owner.send_signal(number)
    owner.wait()


def test_a_lab_stands_within_seconds_and_nothing_of_it_is_left(prefix: str, records: Path) -> None:
    before = read_host()
    watch = Stopwatch()
    with Lab(prefix=prefix, records=records, udp_ports=(53,)) as lab:
        assert watch.own < 5
        assert own_namespaces(prefix) == list(lab.topology.namespaces)
        assert read_host() == before
        lab.run(machine="lb2", command=["iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"])
    assert own_namespaces(prefix) == []
    assert read_host() == before
    assert not lab.directory.exists()


def test_the_client_reaches_every_machine_of_the_article(prefix: str, records: Path) -> None:
    with Lab(prefix=prefix, records=records, udp_ports=(53,)) as lab:
        for name, lan in (("lb1", "10.0.0.1"), ("lb2", "10.0.0.2")):
            lab.listen(machine=name, tcp_ports=(80,))
            for address in (lan, str(lab.address(balancer=name))):
                report = open_connections(lab=lab, address=address, port=80, count=1)
                assert report.answered == {f"{address}:80": 1}
        for last in (3, 4, 5, 6):
            report = open_connections(lab=lab, address=f"10.0.0.{last}", port=80, count=32, concurrency=8)
            assert report.answered == {f"10.0.0.{last}:80": 32}
            assert len(report.peers) == 16  # routed as they are, from many client addresses
            datagrams = send_datagrams(lab=lab, address=f"10.0.0.{last}", port=53, count=32)
            assert datagrams.answered == {f"10.0.0.{last}:53": 32}
        assert open_connections(lab=lab, address="10.0.0.3", port=81, count=3).refused == 3
        assert open_connections(lab=lab, address="10.0.0.7", port=80, count=1, timeout=0.3).lost_total == 1


def test_machines_can_have_other_interfaces_addresses_and_networks(prefix: str, records: Path) -> None:
    balancer = Balancer(
        name="edge",
        lan_address=IPv4Address("10.0.0.9"),
        interfaces=("wan0", "bond0.100"),
        lan_interface="inside",
        addresses=(("bond0.100", IPv4Address("203.0.113.7")),),
    )
    lab = Lab(
        prefix=prefix,
        balancers=(balancer,),
        backends=(IPv4Network("10.0.0.0/24"), IPv4Network("172.16.5.0/24")),
        clients=IPv4Network("192.0.2.0/25"),
        tcp_ports=(8443,),
        records=records,
    )
    with lab:
        lab.listen(machine="edge", tcp_ports=(8443,))
        for address in ("203.0.113.7", "10.0.0.9", "198.18.1.1", "172.16.5.200", "10.0.0.77"):
            report = open_connections(lab=lab, address=address, port=8443, count=2)
            assert report.answered == {f"{address}:8443": 2}
            assert set(report.peers) <= {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"} | {
                f"192.0.2.{n}" for n in range(5, 17)
            }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_lab_is_gone_when_its_owner_is_killed(prefix: str, records: Path, number: signal.Signals) -> None:
    with lab_owner(prefix, records, "process") as (owner, _):
        inside = [pid for name in own_namespaces(prefix) for pid in list_pids(name=name)]
        assert len(inside) == 2  # the listeners, and the process in lb1
        end_owner(owner, number)
        wait_until(lambda: not own_namespaces(prefix), what="the namespaces are gone")
        wait_until(lambda: not (records / prefix).exists(), what="the record is gone")
        assert not any(is_running(pid) for pid in inside)


def test_a_lab_is_gone_although_a_child_of_its_owner_keeps_the_pipe_open(prefix: str, records: Path) -> None:
    with lab_owner(prefix, records, "fork") as (owner, child):
        try:
            end_owner(owner, signal.SIGKILL)
            wait_until(lambda: not own_namespaces(prefix), what="the namespaces are gone")
            assert is_running(child)  # outside of the lab, so it lives on
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lab_is_gone_although_somebody_tidied_its_record_away(prefix: str, records: Path) -> None:
    with lab_owner(prefix, records, "process") as (owner, _):
        shutil.rmtree(records)
        end_owner(owner, signal.SIGKILL)
        wait_until(lambda: not own_namespaces(prefix), what="the namespaces are gone")


def test_a_lab_in_use_is_refused_and_left_alone(prefix: str, records: Path) -> None:
    with Lab(prefix=prefix, records=records) as lab:
        with (
            pytest.raises(LabError, match=f"in use by process {os.getpid()}"),
            Lab(prefix=prefix, records=records),
        ):
            pass
        assert open_connections(lab=lab, address="10.0.0.3", port=80, count=1).lost_total == 0


def test_a_namespace_of_somebody_else_is_refused_and_left_alone(prefix: str, records: Path) -> None:
    foreign = f"{prefix}lb2"
    create_namespaces(names=[foreign])
    try:
        with pytest.raises(LabError, match=f"{foreign} exist already"), Lab(prefix=prefix, records=records):
            pass
        assert own_namespaces(prefix) == [foreign]
        assert not (records / prefix).exists()
    finally:
        remove_namespaces(names=[foreign])


def test_what_a_dead_run_left_is_cleaned_before_the_next(prefix: str, records: Path) -> None:
    with lab_owner(prefix, records, "process") as (owner, _):
        recorded = read_record(directory=records / prefix)
        assert recorded is not None
        reaper = recorded.reaper
        assert reaper is not None
        os.kill(reaper.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(reaper.pid), what="the reaper is dead")
        end_owner(owner, signal.SIGKILL)
    left = [pid for name in own_namespaces(prefix) for pid in list_pids(name=name)]
    assert left
    with Lab(prefix=prefix, records=records) as lab:
        assert open_connections(lab=lab, address="10.0.0.3", port=80, count=1).lost_total == 0
        assert not any(is_running(pid) for pid in left)
    assert own_namespaces(prefix) == []


def test_a_lab_whose_reaper_was_killed_is_removed_by_its_owner(prefix: str, records: Path) -> None:
    with Lab(prefix=prefix, records=records):
        recorded = read_record(directory=records / prefix)
        assert recorded is not None
        assert recorded.reaper is not None
        os.kill(recorded.reaper.pid, signal.SIGKILL)
    assert own_namespaces(prefix) == []
    assert not (records / prefix).exists()


def test_the_number_of_a_dead_process_given_to_another_is_not_taken_for_it(
    prefix: str, records: Path
) -> None:
    directory = records / prefix
    directory.mkdir(parents=True)
    someone = {"pid": os.getpid(), "started": 1, "boot": "another"}
    record = {"namespaces": list(Topology(prefix=prefix).namespaces), "owner": someone, "reaper": someone}
    (directory / "record.json").write_text(json.dumps(record))
    with Lab(prefix=prefix, records=records):
        assert len(own_namespaces(prefix)) == 4


def test_the_processes_of_the_own_namespace_are_never_listed(prefix: str) -> None:
    """A name that was attached to the host's namespace must not get the host's processes killed."""
    subprocess.run(["ip", "netns", "attach", f"{prefix}host", str(os.getpid())], check=True)
    try:
        assert list_pids(name=f"{prefix}host") == ()
    finally:
        subprocess.run(["ip", "netns", "delete", f"{prefix}host"], check=True)


def test_a_lab_that_fails_half_way_leaves_nothing(prefix: str, records: Path) -> None:
    # Two interfaces of one name: the second link cannot be made.
    broken = Balancer(
        name="lb1", lan_address=IPv4Address("10.0.0.1"), interfaces=("eth0", "this-name-is-too-long")
    )
    with (
        pytest.raises(LabError, match="this-name-is-too-long"),
        Lab(prefix=prefix, balancers=(broken,), records=records),
    ):
        pass
    assert own_namespaces(prefix) == []
    assert not (records / prefix).exists()


def test_whoever_is_not_root_is_told_to_use_sudo(prefix: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.touch()
    told.chmod(0o666)
    tmp_path.chmod(0o777)
    with told.open("w") as file:
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                Lab(prefix=prefix).__enter__()
            except LabError as error:
                file.write(str(error))
                file.flush()
            os._exit(0)
        os.waitpid(child, 0)
    assert told.read_text() == "Network namespaces can be made by root only. Run this with sudo."


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
