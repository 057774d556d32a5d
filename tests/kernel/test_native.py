"""Native nftables rules on a real kernel: what is in the way is found, and what the sentence says helps."""

import os
import re
import select
import socket
from pathlib import Path

import pytest

from balancer.kernel import native_listing
from balancer.kernel.base import Flavour, HostCheck
from balancer.kernel.native import NativeWatch
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import Namespace, Wires, ask_udp, document, ruleset, run, service
from tests.kernel.native_tables import FIREWALLD, FORWARD_DROPS, USUAL

PORT = 5300
WEB = service(port=PORT, protocol="udp")

STRANGE = {
    'echo \'{"nftables": [{"metainfo": {"version": "9.0", "json_schema_version": 2}}]}\'': "schema 2",
    "echo '{'": "cannot be understood",
    'echo \'{"nftables": [5, {"chain": 7}]}\'': "cannot be understood",
    "printf '[%.0s' $(seq 100000)": "cannot be understood",
    "echo no >&2; exit 1": "nft said: no",
    "exec sleep 30": "did not finish within",
    "exec yes": "more than 8,000,000 characters",
}


@pytest.fixture
def carried(wires: Wires, flavour: Flavour) -> NodeKernel:
    kernel = NodeKernel(flavour=flavour, wait_seconds=5)
    kernel.sync(ruleset=ruleset(WEB), document=document(WEB))
    return kernel


@pytest.fixture
def backends(wires: Wires) -> dict[str, socket.socket]:
    return wires.listen_udp(port=PORT)


def nft(text: str) -> None:
    run("nft", "-f", "-", text=text)


def checks_of(kernel: NodeKernel) -> dict[str, HostCheck]:
    return {check.id: check for check in kernel.facts().checks if check.id.startswith("nft-")}


def commands_in(check: HostCheck) -> list[list[str]]:
    return [words.split() for words in re.findall(r"'(nft [^']+)'", check.message)]


def arrives(wires: Wires, backends: dict[str, socket.socket]) -> bool:
    client = wires.udp_client(port=PORT)
    client.send(b"ask")
    ready, _, _ = select.select(list(backends.values()), [], [], 0.3)
    for one in ready:
        one.recv(100)
    return bool(ready)


def test_a_forward_policy_of_drop_is_found_and_the_command_that_is_named_lets_connections_through(
    wires: Wires, carried: NodeKernel, backends: dict[str, socket.socket]
) -> None:
    assert arrives(wires, backends)
    nft(FORWARD_DROPS)
    assert not arrives(wires, backends)
    found = checks_of(carried)
    assert list(found) == ["nft-drops"]
    assert "inet filter forward drops new connections to 10.0.0.3" in found["nft-drops"].message
    assert "“policy drop”" in found["nft-drops"].message

    run(*commands_in(found["nft-drops"])[0])
    assert ask_udp(wires.udp_client(port=PORT), backends) in backends
    assert checks_of(carried) == {}


def test_nothing_is_said_of_tables_that_let_balanced_connections_through(
    wires: Wires, carried: NodeKernel, backends: dict[str, socket.socket]
) -> None:
    for text in USUAL.values():
        nft(text)
    assert ask_udp(wires.udp_client(port=PORT), backends) in backends
    assert checks_of(carried) == {}
    assert carried.compare(ruleset=ruleset(WEB)).before == ()


def test_a_strict_firewalld_is_told_what_to_set(
    wires: Wires, carried: NodeKernel, backends: dict[str, socket.socket]
) -> None:
    nft(FIREWALLD % "counter")
    assert not arrives(wires, backends)
    found = checks_of(carried)
    assert list(found) == ["nft-firewalld"]
    assert "StrictForwardPorts=no" in found["nft-firewalld"].message


def test_a_translation_before_ours_and_packets_kept_from_tracking_are_named_with_what_takes_them_out(
    wires: Wires, carried: NodeKernel, backends: dict[str, socket.socket]
) -> None:
    for id_, rule, chain in (
        ("nft-dnat", f"udp dport {PORT} dnat to 10.9.9.9", "type nat hook prerouting priority -105;"),
        ("nft-notrack", f"udp dport {PORT} notrack", "type filter hook prerouting priority raw;"),
    ):
        nft(f"table ip mine {{\nchain pre {{\n{chain}\ntcp dport {PORT} accept\n{rule}\n}}\n}}")
        assert not arrives(wires, backends)
        found = checks_of(carried)
        assert list(found) == [id_]
        assert f"“{rule}" in found[id_].message
        run(*commands_in(found[id_])[0])
        assert arrives(wires, backends)
        assert checks_of(carried) == {}
        run("nft", "delete", "table", "ip", "mine")


def test_rules_that_come_and_go_while_the_worker_runs_are_seen_by_the_next_look(carried: NodeKernel) -> None:
    wanted = ruleset(WEB)
    assert carried.compare(ruleset=wanted).before == ()
    nft(FORWARD_DROPS)
    found = carried.compare(ruleset=wanted)
    assert found.in_sync
    assert found.before == ("nft inet filter forward: policy drop",)
    nft("add rule inet filter forward ip saddr 203.0.113.9 udp dport 5300 drop")
    assert len(carried.compare(ruleset=wanted).before) == 2
    run("nft", "delete", "table", "inet", "filter")
    assert carried.compare(ruleset=wanted).before == ()


def test_a_base_chain_in_a_table_of_iptables_nft_is_read_too(carried: NodeKernel, flavour: Flavour) -> None:
    nft("table ip filter {\nchain forward {\ntype filter hook forward priority 0; policy drop;\n}\n}")
    assert carried.compare(ruleset=ruleset(WEB)).before == ("nft ip filter forward: policy drop",)


def test_a_huge_set_of_others_costs_little_and_hides_nothing(carried: NodeKernel) -> None:
    addresses = ", ".join(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i in range(20_000))
    nft(FORWARD_DROPS)
    nft(
        f"table inet huge {{\nset s {{\ntype ipv4_addr\nelements = {{ {addresses} }}\n}}\n"
        "chain forward {\ntype filter hook forward priority 0;\nip saddr @s drop\n}\n}"
    )
    assert carried.compare(ruleset=ruleset(WEB)).before == (
        "nft inet filter forward: policy drop",
        "nft inet huge forward: ip saddr @s drop",
    )


def test_an_nft_that_cannot_be_understood_is_said_so_and_stops_nobody(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nft(FORWARD_DROPS)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool = tmp_path / "nft"
    for answer, said in STRANGE.items():
        monkeypatch.setattr(native_listing, "SECONDS_MAX", 0.3 if "sleep" in answer else 5.0)
        tool.write_text(f"#!/bin/sh\n{answer}\n")
        tool.chmod(0o755)
        found = native_listing.read_native()
        assert found.tables == ()
        assert said in "".join(found.not_read), answer


def test_without_nft_it_is_said_that_nobody_looked(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nft(FORWARD_DROPS)
    monkeypatch.setattr(native_listing, "find_tool", lambda name: None)
    (check,) = NativeWatch().check({})
    assert (check.id, "install the package nftables" in check.message) == ("nft-not-read", True)
