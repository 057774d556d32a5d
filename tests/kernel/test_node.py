"""The rest of a node: forwarding, facts, and the words in which a refusal reaches people."""

from pathlib import Path

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import Busy, DriverName, Flavour, Receipt, Rejected
from balancer.kernel.lock import xtables_lock_path
from balancer.kernel.node import NodeKernel
from balancer.kernel.plan import TablePlan
from balancer.kernel.restore import RestoreDriver
from balancer.ruleset.ir import Rule, Ruleset, Table, TableName
from balancer.ruleset.targets import Jump
from tests.kernel.machine import Namespace, Wires, document, held, load, ruleset, run, save, service

NFT = Flavour.NFT
SWITCH = Path("/proc/sys/net/ipv4/ip_forward")


def make_kernel(**settings: object) -> NodeKernel:
    return NodeKernel(**({"flavour": NFT, "driver": DriverName.IPTABLES_RESTORE} | settings))


def sync(kernel: NodeKernel, *services: dict) -> Receipt:
    return kernel.sync(ruleset=ruleset(*services), document=document(*services))


def test_forwarding_is_turned_on_once_and_told(namespace: Namespace) -> None:
    assert SWITCH.read_text() == "0\n"
    assert "Turned forwarding on." in sync(make_kernel(), service()).steps
    assert SWITCH.read_text() == "1\n"
    assert "Turned forwarding on." not in sync(make_kernel(), service()).steps


def test_a_refused_ruleset_leaves_forwarding_off_as_it_was(namespace: Namespace) -> None:
    bad = Ruleset(Family.IPV4, (Table(TableName.NAT, {"LB-X": (Rule(target=Jump("LB-NOWHERE")),)}),))
    with pytest.raises(Rejected):
        make_kernel().sync(ruleset=bad, document=document())
    assert SWITCH.read_text() == "0\n"


def test_forwarding_is_made_to_last_in_the_file_that_was_named(namespace: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "60-lbadmin.conf"
    kernel = make_kernel(sysctl_file=path)
    assert not kernel.facts().forwarding_persisted
    assert any(str(path) in step for step in sync(kernel, service()).steps)
    assert "\nnet.ipv4.ip_forward = 1\n" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert kernel.facts().forwarding_persisted
    assert not any(str(path) in step for step in sync(kernel, service()).steps)


def test_a_file_that_cannot_be_written_is_a_warning_and_the_rules_stay(
    namespace: Namespace, tmp_path: Path
) -> None:
    kernel = make_kernel(sysctl_file=tmp_path / "no-such-folder" / "60-lbadmin.conf")
    receipt = sync(kernel, service())
    assert any("will not outlast a reboot" in warning for warning in receipt.warnings)
    assert kernel.compare(ruleset=ruleset(service())).in_sync


@pytest.mark.parametrize("this_host", [True, False])
def test_in_a_namespace_no_file_of_the_host_is_written(namespace: Namespace, this_host: bool) -> None:
    host_file = Path("/etc/sysctl.d/60-lbadmin.conf")
    before = host_file.exists()
    receipt = sync(make_kernel(this_host=this_host), service())
    assert host_file.exists() == before
    assert not any("reboot" in text for text in (*receipt.steps, *receipt.warnings))


def test_facts_list_the_interfaces_with_their_addresses(wires: Wires) -> None:
    found = {interface.name: interface.addresses for interface in make_kernel().facts().interfaces}
    assert "198.51.100.1/24" in found["eth0"]
    assert "10.0.0.1/24" in found["eth1"]


def test_a_refusal_names_the_line_and_the_words_of_the_tool(namespace: Namespace, flavour: Flavour) -> None:
    driver = RestoreDriver(flavour=flavour, family=Family.IPV4, wait_seconds=1)
    rule = "-p tcp -m tcp --dport 99999 -j ACCEPT"
    with pytest.raises(Rejected, match="invalid port/service") as refusal:
        driver.write([TablePlan(table="filter", write={"LB-X": ("-j DROP", rule)})])
    assert f"-A LB-X {rule}" in str(refusal.value)
    assert "LB-X" not in save(flavour)


def test_the_restore_tool_too_is_busy_while_somebody_holds_the_lock(namespace: Namespace) -> None:
    kernel = make_kernel(flavour=Flavour.LEGACY, wait_seconds=1)
    with held(xtables_lock_path()), pytest.raises(Busy, match="holds what it held before"):
        sync(kernel, service())
    assert save(Flavour.LEGACY) == ""


def test_what_others_wrote_into_our_chains_is_put_back_too_when_a_sync_fails(
    namespace: Namespace, kind: tuple[Flavour, DriverName]
) -> None:
    kernel = NodeKernel(flavour=kind[0], driver=kind[1])
    sync(kernel, service())
    load(kind[0], "*filter\n-I LB-INPUT -p tcp -m limit --limit 5/sec -j ACCEPT\nCOMMIT\n")
    before = save(kind[0])
    good = ruleset(service(access={"drop_invalid": False}))
    broken = Table(TableName.NAT, {"LB-X": (Rule(target=Jump("LB-NOWHERE")),)})
    bad = Ruleset(Family.IPV4, (good.table(TableName.FILTER), broken))
    with pytest.raises(Rejected, match="holds what it held before"):
        kernel.sync(ruleset=bad, document=document(service()))
    assert save(kind[0]) == before


def test_a_jump_that_others_flush_away_comes_back_with_the_next_sync(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName]
) -> None:
    sync(kernel, service())
    run(f"iptables-{kind[0]}", "-w", "-F", "FORWARD")
    assert kernel.compare(ruleset=ruleset(service())).lines == ("+ filter: -A FORWARD -j LB-FORWARD",)
    receipt = sync(kernel, service())
    assert receipt.jumps_added == ("filter FORWARD LB-FORWARD",)
    assert receipt.chains_written == ()
