"""What may keep balanced connections away is either no hindrance, or named with an id and a way out."""

import re
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from balancer.kernel import conntrack_use
from balancer.kernel.base import ConntrackUse, Flavour, HostCheck, PortUse
from balancer.kernel.conntrack_use import AVAILABLE, count_ports, read_use
from balancer.kernel.host_checks import InterfaceState, check_rp_filter, check_use
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import Wires, ask_udp, document, ruleset, run, service

FLAVOURS = tuple(Flavour)
NOTRACK = "-t raw -A PREROUTING -p udp --dport 5000:6000 -j CT --notrack"


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


def carry_web(flavour: Flavour) -> NodeKernel:
    kernel = NodeKernel(flavour=flavour)
    web = service(port=5300, protocol="udp")
    kernel.sync(ruleset=ruleset(web), document=document(web))
    return kernel


def iptables(flavour: Flavour, *arguments: str) -> None:
    run(f"iptables-{flavour}", "-w", *arguments)


def checks_of(kernel: NodeKernel) -> dict[str, HostCheck]:
    return {check.id: check for check in kernel.facts().checks}


def docker(flavour: Flavour) -> None:
    """The chains of Docker Engine 28, its jumps first in FORWARD as after a restart of dockerd."""
    for chain in ("DOCKER", "DOCKER-FORWARD", "DOCKER-USER"):
        iptables(flavour, "-N", chain)
    iptables(flavour, "-A", "DOCKER", "!", "-i", "docker0", "-o", "docker0", "-j", "DROP")
    iptables(flavour, "-A", "DOCKER-FORWARD", "-j", "DOCKER")
    iptables(flavour, "-I", "FORWARD", "-j", "DOCKER-FORWARD")
    iptables(flavour, "-I", "FORWARD", "-j", "DOCKER-USER")
    iptables(flavour, "-P", "FORWARD", "DROP")


def test_a_forward_policy_of_drop_and_dockers_chains_behind_ours_hinder_nobody(
    wires: Wires, flavour: Flavour
) -> None:
    docker(flavour)
    kernel = carry_web(flavour)
    backends = wires.listen_udp(port=5300)
    assert {ask_udp(wires.udp_client(port=5300), backends) for _ in range(8)} == set(backends)
    assert "forward-behind-others" not in checks_of(kernel)


def test_rules_that_may_drop_before_ours_are_named_with_the_command_that_helps(
    wires: Wires, flavour: Flavour
) -> None:
    kernel = carry_web(flavour)
    docker(flavour)
    found = checks_of(kernel)["forward-behind-others"]
    assert "“-j DOCKER-FORWARD”" in found.message
    assert "DOCKER-USER" not in found.message, "an empty chain drops nothing"
    command = f"iptables-{flavour} -D FORWARD -j LB-FORWARD"
    assert command in found.message
    run(*command.split())
    carry_web(flavour)
    assert "forward-behind-others" not in checks_of(kernel)


def test_a_strict_rp_filter_drops_far_clients_and_is_explained(wires: Wires, flavour: Flavour) -> None:
    """The clients' network is behind eth0, and the way back to them leads through eth1."""
    kernel = carry_web(flavour)
    with wires.client.entered():
        run("ip", "address", "add", "203.0.113.9/32", "dev", "eth0")
        run("ip", "route", "replace", "198.51.100.0/24", "dev", "eth0", "src", "203.0.113.9")
    run("ip", "route", "add", "default", "via", "10.0.0.3")
    backends = wires.listen_udp(port=5300)
    for strict in (False, True):
        for name in ("all", "eth0"):
            write(f"net.ipv4.conf.{name}.rp_filter", 1 if strict else 0)
        client = wires.udp_client(port=5300, source="203.0.113.9")
        client.settimeout(0.3)
        client.send(b"ask")
        assert got_something(backends) is not strict
        assert ("rp-filter-strict" in checks_of(kernel)) is strict
    assert "net.ipv4.conf.eth0.rp_filter=2" in message_of("eth0", default="eth1")


def test_an_interface_with_the_default_route_may_be_strict() -> None:
    assert message_of("eth0", default="eth0") == ""
    assert "not leave at all" in message_of("eth0", default="")


def test_route_localnet_is_named_for_what_it_lets_in(wires: Wires, flavour: Flavour) -> None:
    kernel = carry_web(flavour)
    assert "route-localnet" not in checks_of(kernel)
    write("net.ipv4.conf.eth0.route_localnet", 1)
    assert "net.ipv4.conf.eth0.route_localnet=0" in checks_of(kernel)["route-localnet"].message


def test_drops_in_mangle_and_packets_kept_from_tracking_are_named_with_what_helps(
    wires: Wires, flavour: Flavour
) -> None:
    web = service(port=5300, protocol="udp", access={"connections_per_source": 50})
    kernel = NodeKernel(flavour=flavour)
    kernel.sync(ruleset=ruleset(web), document=document(web))
    backends = wires.listen_udp(port=5300)
    for harmless in (
        "-t mangle -A FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-t raw -A PREROUTING -p udp --dport 53 -j NOTRACK",
        "-t mangle -A PREROUTING -s 203.0.113.9 -j DROP",
        "-t mangle -A PREROUTING -m conntrack --ctstate NEW -j CONNMARK --set-mark 1",
        "-t mangle -A FORWARD -j CONNMARK --set-xmark 0x1/0xff",
    ):
        iptables(flavour, *harmless.split())
    assert ask_udp(wires.udp_client(port=5300), backends) in backends
    assert kernel.compare(ruleset=ruleset(web)).before == ()
    assert not {"drops-beside-ours", "notrack-before-ours", "mark-overwritten"} & set(checks_of(kernel))

    iptables(flavour, *["-t", "mangle", "-A", "FORWARD", "-j", "DROP"])
    assert kernel.compare(ruleset=ruleset(web)).before == ("beside ours, mangle: -A FORWARD -j DROP",)
    wires.udp_client(port=5300).send(b"ask")
    assert not got_something(backends)
    (command,) = re.findall(r"'(iptables-[^']+)'", checks_of(kernel)["drops-beside-ours"].message)
    run(*command.split())
    assert ask_udp(wires.udp_client(port=5300), backends) in backends
    assert "drops-beside-ours" not in checks_of(kernel)
    assert kernel.compare(ruleset=ruleset(web)).before == ()

    iptables(
        flavour,
        *["-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "5000:6000", "-j", "CT", "--notrack"],
    )
    assert "--dport 5000:6000" in checks_of(kernel)["notrack-before-ours"].message
    wires.udp_client(port=5300).send(b"ask")
    assert not got_something(backends)
    iptables(flavour, *["-t", "mangle", "-A", "POSTROUTING", "-j", "CONNMARK", "--save-mark"])
    assert "0x8fffffff" in checks_of(kernel)["mark-overwritten"].message
    iptables(flavour, "-t", "raw", "-P", "PREROUTING", "DROP")
    assert "“raw: -P PREROUTING DROP”" in checks_of(kernel)["drops-beside-ours"].message


def test_an_interface_that_does_not_forward_is_named_and_the_setting_helps(
    wires: Wires, flavour: Flavour
) -> None:
    kernel = carry_web(flavour)
    backends = wires.listen_udp(port=5300)
    before = kernel.compare(ruleset=ruleset(service(port=5300, protocol="udp"))).machine
    run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
    write("net.ipv4.conf.other0.forwarding", 0)
    assert "forwarding-off" not in checks_of(kernel)
    write("net.ipv4.conf.eth0.forwarding", 0)
    assert kernel.compare(ruleset=ruleset(service(port=5300, protocol="udp"))).machine != before
    wires.udp_client(port=5300).send(b"ask")
    assert not got_something(backends)
    assert "net.ipv4.conf.eth0.forwarding=1" in checks_of(kernel)["forwarding-off"].message
    write("net.ipv4.conf.eth0.forwarding", 1)
    assert ask_udp(wires.udp_client(port=5300), backends) in backends


def test_the_ports_towards_each_backend_are_counted(wires: Wires, flavour: Flavour) -> None:
    carry_web(flavour)
    backends = wires.listen_udp(port=5300)
    for _ in range(8):
        ask_udp(wires.udp_client(port=5300), backends)
    found = count_ports()
    assert {(use.protocol, use.source, use.used, use.available) for use in found} == {
        ("udp", "10.0.0.1", 2, AVAILABLE)
    }
    use = read_use(worth_counting=1)
    assert use.entries >= 8
    assert use.limit > use.entries
    assert use.busiest == found
    assert read_use().busiest == (), "with so few entries nothing is listed"


def test_rules_that_write_over_our_connection_marks_are_named(wires: Wires, flavour: Flavour) -> None:
    kernel = carry_web(flavour)
    iptables(flavour, "-t", "mangle", "-N", "shaping")
    iptables(flavour, "-t", "mangle", "-A", "PREROUTING", "-i", "eth0", "-j", "shaping")
    iptables(flavour, "-t", "mangle", "-A", "shaping", "-j", "CONNMARK", "--set-mark", "1")
    for harmful in (["--save-mark"], ["--or-mark", "0x10000000"]):
        iptables(flavour, "-t", "mangle", "-A", "POSTROUTING", "-j", "CONNMARK", *harmful)
    bounded = ["-j", "CONNMARK", "--save-mark", "--mask", "0xffff"]
    marked = ["-p", "udp", "-m", "mark", "--mark", "0xca6c", "-j", "CONNMARK", "--save-mark"]
    for harmless in (bounded, marked, ["-j", "CONNMARK", "--restore-mark"]):
        iptables(flavour, "-t", "mangle", "-A", "POSTROUTING", *harmless)
    iptables(flavour, "-t", "mangle", "-A", "OUTPUT", "-j", "CONNMARK", "--save-mark")

    found = [check.message for check in kernel.facts().checks if check.id == "mark-overwritten"]

    start = f"A rule of others (iptables-{flavour} -t mangle: “-A"
    assert [message.partition("”)")[0] for message in found] == [
        f"{start} shaping -j CONNMARK --set-xmark 0x1/0xffffffff",
        f"{start} POSTROUTING -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        f"{start} POSTROUTING -j CONNMARK --set-xmark 0x10000000/0x10000000",
    ]
    assert "such as 0x8fffffff" in found[0]


def test_the_kernels_statistics_are_those_of_the_callers_namespace(wires: Wires) -> None:
    """A thread may stand elsewhere than its process."""
    entry = ["-p", "udp", "-s", "10.0.0.1", "-d", "10.0.0.2", "--sport", "1", "--dport", "2", "-t", "60"]

    def look() -> bool:
        with wires.client.entered():
            run("conntrack", "-I", *entry)
            return conntrack_use._counters()["entries"] > 0

    assert conntrack_use._counters()["entries"] == 0
    with ThreadPoolExecutor(max_workers=1) as elsewhere:
        assert elsewhere.submit(look).result()


def test_what_runs_out_is_said_before_it_has() -> None:
    ports = PortUse(protocol="tcp", source="10.0.0.1", backend="10.0.0.3:80", used=60000, available=AVAILABLE)
    ids = [check.id for check in check_use(ConntrackUse(entries=95, limit=100, busiest=(ports,)))]
    assert ids == ["conntrack-full", "ports-exhausted"]
    assert not list(check_use(ConntrackUse(entries=50, limit=100)))


def write(name: str, value: int) -> None:
    Path("/proc/sys", name.replace(".", "/")).write_text(f"{value}\n")


def got_something(backends: dict[str, socket.socket]) -> bool:
    ready, _, _ = select.select(list(backends.values()), [], [], 0.3)
    for one in ready:
        one.recv(100)
    return bool(ready)


def message_of(strict: str, *, default: str) -> str:
    interfaces = tuple(
        InterfaceState(
            name=name,
            rp_filter=1 if name == strict else 0,
            route_localnet=False,
            forwarding=True,
            has_default_route=name == default,
        )
        for name in ("eth0", "eth1")
    )
    return "".join(check.message for check in check_rp_filter(interfaces))
