"""A service is said to answer exactly when a client's connection would be answered by one of its backends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from balancer import wiring
from balancer.kernel.base import Flavour, ForeignNamespace
from balancer.probes import machine
from balancer.probes.base import ProbeError
from balancer.ruleset.compile import compile_document
from tests.kernel.machine import BACKENDS, document, run, service
from tests.probes.balancer import Balancer, ask, seen_around
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("mode", ["masquerade", "none"])
def test_a_service_answers_through_the_node_and_nothing_of_the_probe_is_left(
    balancer: Balancer, flavour: Flavour, mode: str
) -> None:
    balancer.listen()
    found = balancer.carry(service(source_nat={"mode": mode}), flavour=flavour)
    before = seen_around()
    watch = Stopwatch()
    web = ask(found)["web"]
    assert watch.own < 2
    assert web.passed is True, web.text
    assert web.backends_up == 4
    assert web.milliseconds is not None
    assert web.text.startswith("web answered through eth0 198.51.100.1:80 after ")
    # A node that is too busy for the first attempt makes another, which is the next backend's turn.
    assert any(f"by {one}:80; 4 of 4 backends are up" in web.text for one in BACKENDS)
    assert seen_around() == before


def test_several_services_on_several_interfaces_are_asked_at_once(
    balancer: Balancer, flavour: Flavour
) -> None:
    balancer.listen()
    balancer.listen(port=8080)
    run("ip", "link", "add", "eth2", "type", "veth", "peer", "name", "far2")
    run("ip", "link", "set", "eth2", "up")
    run("ip", "link", "set", "far2", "up")
    run("ip", "address", "add", "203.0.113.1/24", "dev", "eth2")
    balancer.filter_reverse_paths("eth2", 0)
    backends = [{"address": address, "port": 8080} for address in BACKENDS]
    found = balancer.carry(
        service("web", address="198.51.100.1"),
        service("other", address="198.51.100.1", interface="eth2", scheduler="random", backends=backends),
        service("here", interface="eth2", port=81, backends=backends),
        flavour=flavour,
    )
    results = ask(found)
    assert {name: result.passed for name, result in results.items()} == dict.fromkeys(results, True)
    assert ":8080;" in results["other"].text
    assert "eth2 203.0.113.1:81" in results["here"].text


def test_without_its_rules_a_service_does_not_answer(balancer: Balancer, flavour: Flavour) -> None:
    balancer.listen()
    found = balancer.carry(service(), flavour=flavour, rules=compile_document(document()))
    web = ask(found)["web"]
    assert web.passed is False
    assert "did not answer through eth0 198.51.100.1:80" in web.text
    assert "4 of 4 backends are up" in web.text
    assert web.backends_up == 4


def test_rules_that_lead_nowhere_are_noticed(balancer: Balancer, flavour: Flavour) -> None:
    """Silence, where the one above is refused: 10.0.0.99 is nobody."""
    balancer.listen()
    nowhere = service(backends=[{"address": "10.0.0.99"}])
    found = balancer.carry(service(), flavour=flavour, rules=compile_document(document(nowhere)))
    web = ask(found, timeout=3)["web"]
    assert web.passed is False
    assert "without an answer" in web.text


def test_backends_whose_gateway_is_another_machine_are_no_reason_to_go_back(
    balancer: Balancer, flavour: Flavour
) -> None:
    """Source NAT none on the spare node of two: what goes out is right, and no answer can come back."""
    balancer.listen()
    found = balancer.carry(service(source_nat={"mode": "none"}), flavour=flavour)
    with balancer.wires.backend.entered():
        run("ip", "route", "delete", "default")
    web = ask(found, timeout=3)["web"]
    assert web.passed is None
    assert "went out to 10.0.0." in web.text
    assert "backends answer through their own gateway" in web.text


@pytest.mark.parametrize("mode", ["masquerade", "none"])
def test_packets_that_never_leave_the_node_are_not_taken_for_that(balancer: Balancer, mode: str) -> None:
    balancer.listen()
    found = balancer.carry(service(source_nat={"mode": mode}), flavour=Flavour.NFT)
    run("iptables-nft", "-I", "FORWARD", "-j", "DROP")
    web = ask(found, timeout=3)["web"]
    assert web.passed is False
    assert "without an answer" in web.text


@pytest.mark.parametrize("carried", [True, False])
def test_a_program_of_the_node_itself_is_not_taken_for_a_backend(
    balancer: Balancer, flavour: Flavour, carried: bool
) -> None:
    balancer.listen()
    own = balancer.wires.keep(socket.create_server(("0.0.0.0", 80)))
    assert own
    rules = None if carried else compile_document(document())
    found = balancer.carry(service(), flavour=flavour, rules=rules)
    web = ask(found)["web"]
    assert web.passed is carried, web.text
    assert carried or "answered by the node itself" in web.text


def test_where_nobody_can_tell_who_answered_it_is_not_called_right(
    balancer: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer.listen()
    found = balancer.carry(service(), flavour=Flavour.NFT)
    monkeypatch.setattr("balancer.probes.through.who_answers", lambda **_: None)
    assert ask(found)["web"].passed is True
    balancer.wires.keep(socket.create_server(("0.0.0.0", 80)))
    web = ask(found)["web"]
    assert web.passed is None
    assert "Install conntrack" in web.text


def test_one_backend_that_is_up_is_found_among_those_that_are_down(
    balancer: Balancer, flavour: Flavour
) -> None:
    balancer.listen(addresses=BACKENDS[3:])
    found = balancer.carry(service(), flavour=flavour)
    web = ask(found)["web"]
    assert web.passed is True
    assert web.backends_up == 1
    assert "backend 10.0.0.6:80 is up, 1 of 4" in web.text


def test_a_service_whose_backends_are_all_down_is_not_asked_to_answer(balancer: Balancer) -> None:
    found = balancer.carry(service(), flavour=Flavour.NFT)
    web = ask(found)["web"]
    assert (web.passed, web.backends_up) == (None, 0)
    assert "none of its 4 enabled backends accepts connections from the node" in web.text


@pytest.mark.parametrize("place", ["eth0", "all"])
def test_a_strict_reverse_path_filter_is_named_and_the_backends_are_asked_directly(
    balancer: Balancer, place: str
) -> None:
    balancer.listen()
    found = balancer.carry(service(), flavour=Flavour.NFT)
    balancer.filter_reverse_paths(place, 1)
    web = ask(found)["web"]
    assert web.passed is None
    assert web.stands
    assert "rp_filter 1" in web.text
    assert "Asked directly instead: 4 of 4 backends are up." in web.text


def test_a_loose_reverse_path_filter_lets_the_probe_in(balancer: Balancer) -> None:
    balancer.listen()
    found = balancer.carry(service(), flavour=Flavour.NFT)
    balancer.filter_reverse_paths("all", 2)
    assert ask(found)["web"].passed is True


def test_an_interface_that_is_missing_or_down_is_said_in_words(balancer: Balancer) -> None:
    balancer.listen()
    found = balancer.carry(service(), service("lost", interface="eth7"), flavour=Flavour.NFT)
    assert "this node has no interface eth7" in ask(found)["lost"].text
    assert ask(found)["lost"].passed is False
    run("ip", "link", "set", "eth0", "down")
    assert ask(found)["web"].passed is False
    assert "the interface eth0 is down" in ask(found)["web"].text


def test_what_cannot_be_asked_says_why(balancer: Balancer) -> None:
    balancer.listen()
    found = balancer.carry(
        service("dns", protocol="udp", port=53),
        service("off", port=81, enabled=False),
        service("none", port=82, backends=[]),
        service("drained", port=83, backends=[{"address": BACKENDS[0], "port": 80, "state": "draining"}]),
        flavour=Flavour.NFT,
    )
    results = ask(found, "dns", "off", "none", "drained", "gone")
    assert {result.passed for result in results.values()} == {None}
    assert "over UDP, no answer says nothing" in results["dns"].text
    assert "it is disabled" in results["off"].text
    assert "no enabled backend" in results["none"].text
    assert "no enabled backend" in results["drained"].text
    assert "not in the configuration any more" in results["gone"].text


def test_of_many_services_a_sample_is_asked_and_the_rest_is_counted(
    balancer: Balancer, flavour: Flavour
) -> None:
    balancer.listen()
    many = [
        service(f"s{n}", port=1000 + n, backends=[{"address": BACKENDS[0], "port": 80}]) for n in range(60)
    ]
    found = balancer.carry(*many, flavour=flavour)
    watch = Stopwatch()
    results = ask(found)
    assert watch.own < 4
    assert len(results) == 51
    assert sum(result.passed is True for result in results.values()) == 50
    assert results[""].passed is None
    assert "50 of 60 touched services were asked" in results[""].text


def test_many_dead_services_take_no_longer_than_the_time_allowed(balancer: Balancer) -> None:
    balancer.listen()
    many = [
        service(f"s{n}", port=1000 + n, backends=[{"address": BACKENDS[0], "port": 80}]) for n in range(50)
    ]
    nowhere = [one | {"backends": [{"address": "10.0.0.99"}]} for one in many]
    found = balancer.carry(*many, flavour=Flavour.NFT, rules=compile_document(document(*nowhere)))
    watch = Stopwatch()
    results = ask(found, timeout=2)
    assert watch.own < 3
    assert {result.passed for result in results.values()} == {False}


def test_the_source_is_an_address_that_nobody_has_and_follows_the_setting(balancer: Balancer) -> None:
    network = IPv4Network("198.18.0.0/15")
    assert machine.free_addresses(network=network, count=1, taken=set()) == (network.broadcast_address - 1,)
    run("ip", "route", "add", "198.19.255.0/24", "dev", "eth0")
    run("ip", "route", "add", "blackhole", "198.19.254.0/24")
    taken = {network.broadcast_address - 256 - 1}
    found = machine.free_addresses(network=network, count=2, taken=taken)
    assert [str(address) for address in found] == ["198.19.254.253", "198.19.254.252"]
    run("ip", "route", "add", "198.18.0.0/15", "dev", "eth0")
    with pytest.raises(ProbeError, match="LBADMIN_PROBE_NETWORK"):
        machine.free_addresses(network=network, count=1, taken=set())

    balancer.listen()
    web = balancer.carry(service(), flavour=Flavour.NFT)
    refused = ask(web)["web"]
    assert refused.passed is None
    assert "is in use on this node" in refused.text
    assert ask(web, network=IPv4Network("198.51.100.240/28"))["web"].passed is True


def test_a_kernel_that_refuses_the_way_in_is_quoted(
    balancer: Balancer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    balancer.listen()
    found = balancer.carry(service(), flavour=Flavour.NFT)
    refusing = tmp_path / "tc"
    refusing.write_text("#!/bin/sh\ncat > /dev/null; echo 'Error: TC classifier not found.' >&2; exit 1\n")
    refusing.chmod(0o755)
    before = seen_around()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    web = ask(found)["web"]
    assert web.passed is None
    assert "tc said: Error: TC classifier not found." in web.text
    assert "4 of 4 backends are up" in web.text
    monkeypatch.undo()
    assert seen_around() == before


def test_nothing_is_left_after_the_asking_process_was_killed(balancer: Balancer) -> None:
    """Killed while the way is laid and attempts are waiting for answers that never come."""
    balancer.listen()
    nowhere = service(backends=[{"address": "10.0.0.99"}])
    found = balancer.carry(service(), flavour=Flavour.NFT, rules=compile_document(document(nowhere)))
    before = seen_around()
    code = (
        "from tests.probes.balancer import ask\nfrom tests.kernel.machine import document, service\n"
        "ask(document(service()))"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: "lbprobe" in run("tc", "qdisc"), what="the probe's link appears")
        children = pids_of_children(asking.pid)
        assert children
    finally:
        asking.send_signal(signal.SIGKILL)
        asking.wait()
    wait_until(lambda: seen_around() == before, what="the probe's link is gone")
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), what="its child is gone")
    assert found


def test_nothing_is_left_after_the_child_was_killed(balancer: Balancer) -> None:
    balancer.listen()
    nowhere = service(backends=[{"address": "10.0.0.99"}])
    found = balancer.carry(service(), flavour=Flavour.NFT, rules=compile_document(document(nowhere)))
    before = seen_around()
    code = (
        "from tests.probes.balancer import ask\nfrom tests.kernel.machine import document, service\n"
        "print(ask(document(service()))['web'].text)"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: "lbprobe" in run("tc", "qdisc"), what="the probe's link appears")
    (child,) = [pid for pid in pids_of_children(asking.pid) if is_child(pid)]
    os.kill(child, signal.SIGKILL)
    said, _ = asking.communicate(timeout=20)
    assert "could not be asked through eth0" in said
    assert seen_around() == before
    assert found


def test_the_machines_own_namespace_is_refused() -> None:
    """This test stands where it was started, and nothing is looked at there before it is refused."""
    with pytest.raises(ForeignNamespace):
        wiring.ask_services(document(service()), frozenset({"web"}))


def pids_of_children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_child(pid: int) -> bool:
    """And not one of the tools that lay the way."""
    try:
        return b"balancer.probes.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"not within 20 seconds: {what}"
        time.sleep(0.005)
