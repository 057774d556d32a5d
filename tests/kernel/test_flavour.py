"""Two flavours hook one kernel: we write one, and look at the other first."""

from pathlib import Path

import pytest

from balancer.kernel.base import DriverName, Flavour, Receipt, Rejected
from balancer.kernel.flavour import detect_host_tool
from balancer.kernel.node import NodeKernel
from balancer.kernel.selection import select
from tests.kernel.machine import Namespace, document, load, own_part, ruleset, run, save, service


def make_kernel(flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)


def sync(kernel: NodeKernel) -> Receipt:
    return kernel.sync(ruleset=ruleset(service()), document=document(service()))


def test_it_is_refused_while_the_other_flavour_holds_our_chains(
    namespace: Namespace, flavour: Flavour
) -> None:
    sync(make_kernel(flavour.other))
    with pytest.raises(
        Rejected,
        match=f"{flavour.other} tables of this node hold lbadmin chains .LB-A-web:not-syn",
    ):
        sync(make_kernel(flavour))
    assert "LB-" not in save(flavour)
    assert any("hold lbadmin chains" in warning for warning in make_kernel(flavour).facts().warnings)

    make_kernel(flavour.other).remove()
    assert sync(make_kernel(flavour)).changed


def test_rules_of_the_other_flavour_are_a_warning(namespace: Namespace, flavour: Flavour) -> None:
    load(flavour.other, "*nat\n-A PREROUTING -s 203.0.113.1/32 -j ACCEPT\nCOMMIT\n")
    receipt = sync(make_kernel(flavour))
    assert len(receipt.warnings) == 1
    assert f"The {flavour.other} tables of this node hold rules too (in nat)" in receipt.warnings[0]
    assert make_kernel(flavour).facts().warnings == receipt.warnings


def test_a_forward_policy_of_the_other_flavour_that_drops_is_a_warning(
    namespace: Namespace, flavour: Flavour
) -> None:
    run(f"iptables-{flavour.other}", "-w", "-P", "FORWARD", "DROP")
    (warning,) = sync(make_kernel(flavour)).warnings
    assert f"FORWARD policy of the {flavour.other} tables is DROP" in warning


def test_empty_tables_of_the_other_flavour_are_no_warning(namespace: Namespace, flavour: Flavour) -> None:
    run(f"iptables-{flavour.other}", "-w", "-t", "nat", "-L")
    assert sync(make_kernel(flavour)).warnings == ()


def test_looking_at_the_other_flavour_creates_no_tables_in_it(namespace: Namespace, flavour: Flavour) -> None:
    sync(make_kernel(flavour))
    assert own_part(save(flavour.other)) == {}


@pytest.mark.parametrize(
    ("version", "flavour"),
    [
        ("iptables v1.8.9 (nf_tables)", Flavour.NFT),
        ("iptables v1.8.9 (legacy)", Flavour.LEGACY),
        ("iptables v1.6.1", Flavour.LEGACY),
    ],
)
def test_the_flavour_is_that_of_the_iptables_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, flavour: Flavour
) -> None:
    tool = tmp_path / "iptables"
    tool.write_text(f"#!/bin/sh\necho '{version}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = detect_host_tool()
    assert (found.flavour, found.version) == (flavour, version)


def test_the_driver_follows_the_flavour_and_says_why(namespace: Namespace) -> None:
    legacy = select(flavour=Flavour.LEGACY, driver=None)
    assert legacy.driver is DriverName.PYTHON_IPTABLES
    assert legacy.reason == "python-iptables passed its self-test; the flavour legacy was asked for"
    nft = select(flavour=Flavour.NFT, driver=None)
    assert nft.driver is DriverName.IPTABLES_RESTORE
    assert nft.reason == "iptables-nft is written by iptables-restore; the flavour nft was asked for"
