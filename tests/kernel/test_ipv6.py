"""IPv6 services on a real kernel: both flavours, real connections, and what is left when they go."""

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.domain.types import Document, Family
from balancer.kernel.base import DriverName, Flavour, Rejected
from balancer.kernel.fates import Fate, count_fates
from balancer.kernel.network import local_addresses
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from tests.kernel.ipv6 import BACKENDS6, BALANCER, CLIENT, INSIDE, Wires6, accepted, service6
from tests.kernel.machine import (
    Namespace,
    ask_udp,
    document,
    foreign_part,
    load,
    own_part,
    ruleset,
    run,
    save,
    service,
)

IPV6 = Family.IPV6
KINDS = ((Flavour.LEGACY, DriverName.PYTHON_IPTABLES), (Flavour.NFT, DriverName.IPTABLES_RESTORE))
"""What nodes have; the legacy one writes IPv6 through ip6tables-legacy-restore."""
SWITCH = Path("/proc/sys/net/ipv6/conf/all/forwarding")
FOREIGN = """\
*filter
:MINE - [0:0]
-A INPUT -s 2001:db8:9::9/128 -j DROP
-A FORWARD -p ipv6-icmp -j MINE
-A MINE -m comment --comment "a -j LB-X \\" text" -j RETURN
COMMIT
*nat
-A PREROUTING -d 2001:db8:9::1/128 -p tcp -m tcp --dport 80 -j DNAT --to-destination [2001:db8:9::2]:80
COMMIT
"""


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind))
def kind(request: pytest.FixtureRequest) -> tuple[Flavour, DriverName]:
    return request.param


@pytest.fixture
def wires(namespace: Namespace) -> Iterator[Wires6]:
    built = Wires6(namespace)
    yield built
    built.close()


def carry(kernel: NodeKernel, *services: dict) -> Document:
    """As a worker does: both families."""
    found = document(*services)
    for family in Family:
        kernel.sync(ruleset=compile_document(found, family=family), document=found)
    return found


def in_sync(kernel: NodeKernel, *services: dict) -> bool:
    found = document(*services)
    rulesets = [compile_document(found, family=family) for family in Family]
    return all(kernel.compare(ruleset=ruleset).in_sync for ruleset in rulesets)


def test_the_kernel_prints_back_what_was_written_to_the_letter(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName]
) -> None:
    services = (
        service6(),
        service6("dns", protocol="udp", port=53, address="2001:db8:1::53", source_nat={"mode": "none"}),
        service6("two", protocol="udp", port=53, address="2001:db8:1::54", scheduler="random"),
        service6("none", port=82, backends=[], address=BALANCER),
    )
    carry(kernel, *services)

    text = save(kind[0], family=IPV6)
    wanted = render_ruleset(ruleset(*services, family=IPV6))
    lines = {line for line in text.splitlines() if line.startswith("-A LB-")}
    assert lines == {line for line in wanted.splitlines() if line.startswith("-A LB-")}
    assert "-A PREROUTING -j LB-PREROUTING" in text
    assert in_sync(kernel, *services)


def test_connections_are_balanced_exactly_and_masqueraded(kernel: NodeKernel, wires: Wires6) -> None:
    listeners = wires.listen6(port=8080)
    weights = (3, 2, 2, 1)
    backends = [
        {"address": address, "port": 8080, "weight": weight}
        for address, weight in zip(BACKENDS6, weights, strict=True)
    ]
    carry(kernel, service6(backends=backends), service())
    wires.connect6(port=81, count=80)
    counts, peers = accepted(listeners, wires)
    assert counts == dict(zip(BACKENDS6, (30, 20, 20, 10), strict=True))
    assert peers == {INSIDE}


def test_udp_flows_are_balanced_exactly_too(kernel: NodeKernel, wires: Wires6) -> None:
    listeners = wires.listen6(port=53, kind=socket.SOCK_DGRAM)
    carry(kernel, service6("dns", protocol="udp", port=53))
    found = Counter(ask_udp(wires.udp_client6(port=53), listeners) for _ in range(40))
    assert found == dict.fromkeys(BACKENDS6, 10)


def test_without_source_nat_backends_see_the_client(kernel: NodeKernel, wires: Wires6) -> None:
    listeners = wires.listen6(port=81)
    with wires.backend.entered():
        run("ip", "-6", "route", "add", "default", "via", INSIDE)
    carry(kernel, service6(source_nat={"mode": "none"}))
    wires.connect6(port=81, count=8)
    assert accepted(listeners, wires) == (dict.fromkeys(BACKENDS6, 2), {CLIENT})


def test_a_service_without_backends_refuses_at_once(kernel: NodeKernel, wires: Wires6) -> None:
    # The node's own socket would take the connection, had it not been refused.
    wires.keep(socket.create_server(("::", 81), family=socket.AF_INET6))
    off = [{"address": BACKENDS6[0], "state": "disabled"}]
    carry(kernel, service6(backends=off), service6("dns", protocol="udp", port=53, backends=off))
    with wires.client.entered(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((BALANCER, 81), timeout=30)
    client = wires.udp_client6(port=53)
    client.send(b"ask")
    with pytest.raises(ConnectionRefusedError):  # ICMPv6 port unreachable
        client.recv(100)


def test_what_is_not_for_an_address_of_the_machine_passes_unbalanced(
    kernel: NodeKernel, wires: Wires6
) -> None:
    listeners = wires.listen6(port=81)
    with wires.backend.entered():
        run("ip", "-6", "route", "add", "default", "via", INSIDE)
    carry(kernel, service6(backends=[{"address": BACKENDS6[0]}]))
    wires.connect6(port=81, count=3, address=BACKENDS6[1])
    assert accepted(listeners, wires) == ({BACKENDS6[1]: 3}, {CLIENT})


def test_neighbours_are_found_after_the_rules_as_before(kernel: NodeKernel, wires: Wires6) -> None:
    carry(kernel, service6(), service6("dns", protocol="udp", port=53, backends=[]))
    for namespace, target in ((wires.client, BALANCER), (wires.balancer, BACKENDS6[2])):
        with namespace.entered():
            run("ip", "-6", "neighbour", "flush", "all")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((target, 9), timeout=30)


def test_udp_clients_leave_a_backend_that_was_removed(kernel: NodeKernel, wires: Wires6) -> None:
    listeners = wires.listen6(port=53, kind=socket.SOCK_DGRAM)
    first, second = ([{"address": address}] for address in BACKENDS6[:2])
    carry(kernel, service6("dns", protocol="udp", port=53, backends=first))
    client = wires.udp_client6(port=53)
    assert ask_udp(client, listeners) == BACKENDS6[0]
    found = document(service6("dns", protocol="udp", port=53, backends=second))
    receipt = kernel.sync(ruleset=compile_document(found, family=IPV6), document=found)
    assert receipt.connections_removed == 1
    assert ask_udp(client, listeners) == BACKENDS6[1]


def test_what_reviewers_are_told_of_connections_is_what_a_sync_does(
    kernel: NodeKernel, wires: Wires6
) -> None:
    tcp, udp = wires.listen6(port=81), wires.listen6(port=53, kind=socket.SOCK_DGRAM)
    kept, cut = ([{"address": a, "state": state} for a in BACKENDS6[:2]] for state in ("enabled", "disabled"))
    before = (service6(backends=kept), service6("dns", protocol="udp", port=53, backends=kept))
    after = (
        service6(backends=[kept[0], cut[1]]),
        service6("dns", protocol="udp", port=53, backends=kept[:1]),
    )
    carry(kernel, *before)
    wires.connect6(port=81, count=4)
    accepted(tcp, wires)
    for _ in range(2):
        ask_udp(wires.udp_client6(port=53), udp)
    found = document(*after)
    told = count_fates(
        before={one.name: one for one in document(*before).services},
        after={one.name: one for one in found.services},
        others=(),
        seen=kernel.observe(),
        local_addresses=local_addresses(family=IPV6),
    )
    assert {(group.service, group.backend, group.fate): count for group, count in told.items()} == {
        ("web6", f"[{BACKENDS6[0]}]:81", Fate.STAY): 2,
        ("web6", f"[{BACKENDS6[1]}]:81", Fate.CUT): 2,
        ("dns", f"[{BACKENDS6[0]}]:53", Fate.STAY): 1,
        ("dns", f"[{BACKENDS6[1]}]:53", Fate.FLUSHED): 1,
    }
    receipt = kernel.sync(ruleset=compile_document(found, family=IPV6), document=found)
    assert receipt.connections_removed == 3


def test_an_observation_counts_connections_of_both_families(kernel: NodeKernel, wires: Wires6) -> None:
    listeners = wires.listen6(port=81)
    with wires.backend.entered():
        wires.keep(socket.create_server(("10.0.0.3", 80)))
    carry(kernel, service6(), service(backends=[{"address": "10.0.0.3"}]))
    wires.connect6(port=81, count=4)
    accepted(listeners, wires)
    with wires.client.entered():
        wires.keep(socket.create_connection((wires.service_address, 80), timeout=30))
    found = {(str(one.address), one.backend): one.established for one in kernel.observe().connections}
    assert found == {(wires.service_address, "10.0.0.3:80"): 1} | {
        (BALANCER, f"[{address}]:81"): 1 for address in BACKENDS6
    }


def test_going_idle_keeps_established_connections_and_the_base_chains(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName], wires: Wires6
) -> None:
    listeners = wires.listen6(port=81)
    carry(kernel, service6(), service())
    run(f"ip6tables-{kind[0]}", "-w", "5", "-P", "FORWARD", "DROP")
    with wires.client.entered():
        client = wires.keep(socket.create_connection((BALANCER, 81), timeout=30))
    server, _ = listeners[BACKENDS6[0]].accept()
    wires.keep(server)
    assert not in_sync(kernel, service())

    found = document(service())
    receipt = kernel.sync(ruleset=compile_document(found, family=IPV6), document=found)

    assert receipt.tables_committed == ("nat", "filter"), "nothing may be redirected to what is not accepted"
    assert in_sync(kernel, service())
    client.send(b"still here")
    assert server.recv(100) == b"still here"
    chains = [line for line in save(kind[0], family=IPV6).splitlines() if line.startswith(":LB-")]
    assert {line.split()[0] for line in chains} == {
        ":LB-INPUT",
        ":LB-FORWARD",
        ":LB-PREROUTING",
        ":LB-POSTROUTING",
    }


def test_rules_of_others_are_byte_for_byte_what_they_were(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName]
) -> None:
    load(kind[0], FOREIGN, family=IPV6)
    before = foreign_part(save(kind[0], family=IPV6))
    for services in ([service6()], [service6(scheduler="random")], [service()]):
        carry(kernel, *services)
        assert foreign_part(save(kind[0], family=IPV6)) == before
    kernel.remove()
    assert save(kind[0], family=IPV6).strip() == before.strip()


def test_removal_takes_both_families_out(kernel: NodeKernel, kind: tuple[Flavour, DriverName]) -> None:
    carry(kernel, service6(), service())
    receipt = kernel.remove()
    assert receipt.tables_committed == ("nat", "filter", "ipv6 nat", "ipv6 filter")
    for family in Family:
        assert not any(own_part(save(kind[0], family=family)).values())


def test_forwarding_is_turned_on_with_the_first_ipv6_service_only(
    namespace: Namespace, flavour: Flavour, tmp_path: Path
) -> None:
    path = tmp_path / "60-lbadmin.conf"
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE, sysctl_file=path)
    carry(kernel, service())
    facts = kernel.facts()
    assert (facts.forwarding, facts.forwarding_ipv6, facts.forwarding_ipv6_persisted) == (True, False, False)
    assert "ipv6" not in path.read_text()

    carry(kernel, service(), service6())

    facts = kernel.facts()
    assert (facts.forwarding_ipv6, facts.forwarding_ipv6_persisted) == (True, True)
    assert path.read_text().splitlines()[1:] == [
        "net.ipv4.ip_forward = 1",
        "net.ipv6.conf.all.forwarding = 1",
    ]
    assert facts.forwarding_persisted


def test_refused_rules_leave_forwarding_as_it_was(namespace: Namespace, flavour: Flavour) -> None:
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    load(flavour, "*nat\n:LB-OLD - [0:0]\n:MINE - [0:0]\n-A MINE -p tcp -j LB-OLD\nCOMMIT\n", family=IPV6)
    with pytest.raises(Rejected, match="MINE"):
        carry(kernel, service6())
    assert SWITCH.read_text() == "0\n"


def test_an_advertised_default_route_is_warned_of_and_accept_ra_left_alone(
    wires: Wires6, flavour: Flavour
) -> None:
    accept = Path("/proc/sys/net/ipv6/conf/eth0/accept_ra")
    accept.write_text("1")
    run("ip", "-6", "route", "add", "default", "via", CLIENT, "dev", "eth0", "proto", "ra")
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    assert any("through eth0 comes from router advertisements" in text for text in kernel.facts().warnings)
    found = document(service6())
    receipt = kernel.sync(ruleset=compile_document(found, family=IPV6), document=found)
    assert any("net.ipv6.conf.eth0.accept_ra is 2" in text for text in receipt.warnings)
    assert accept.read_text() == "1\n"


def test_chains_in_the_other_flavour_are_refused(namespace: Namespace, flavour: Flavour) -> None:
    carry(NodeKernel(flavour=flavour.other, driver=DriverName.IPTABLES_RESTORE), service6())
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    for services in ([service6()], [service()]):
        found = document(*services)
        with pytest.raises(
            Rejected, match=f"The IPv6 {flavour.other} tables of this node hold lbadmin chains"
        ):
            kernel.sync(ruleset=compile_document(found, family=IPV6), document=found)


def test_rules_in_the_other_flavour_are_warned_of(namespace: Namespace, flavour: Flavour) -> None:
    load(flavour.other, FOREIGN, family=IPV6)
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    found = document(service6())
    receipt = kernel.sync(ruleset=compile_document(found, family=IPV6), document=found)
    assert any(
        f"The IPv6 {flavour.other} tables of this node hold rules" in text for text in receipt.warnings
    )


def test_on_a_legacy_node_ipv6_goes_through_restore(kernel: NodeKernel) -> None:
    found = document(service6())
    receipt = kernel.sync(ruleset=compile_document(found, family=IPV6), document=found)
    assert receipt.driver is DriverName.IPTABLES_RESTORE


def test_a_machine_without_ip6tables_works_as_long_as_nothing_asks_for_it(
    namespace: Namespace, flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    from balancer.kernel import tools

    real = tools.find_tool
    monkeypatch.setattr(tools, "find_tool", lambda name: None if name.startswith("ip6") else real(name))
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    carry(kernel, service())
    assert in_sync(kernel, service())
    assert kernel.observe().inputs
    assert kernel.facts().forwarding
    with pytest.raises(Rejected, match="ip6tables"):
        carry(kernel, service6())
    assert kernel.remove().changed


def nothing_written(flavour: Flavour) -> bool:
    return not any(own_part(save(flavour, family=IPV6)).values())


@pytest.mark.parametrize("wanted", [[], [service()]], ids=["nothing", "ipv4 only"])
def test_where_nothing_was_ever_balanced_over_ipv6_nothing_is_written(
    namespace: Namespace, flavour: Flavour, wanted: list[dict]
) -> None:
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    before = save(flavour, family=IPV6)
    carry(kernel, *wanted)
    assert in_sync(kernel, *wanted)
    assert nothing_written(flavour)
    assert save(flavour, family=IPV6) == before
    assert SWITCH.read_text() == "0\n"
