"""What a reviewer is told about connections is what a sync then does to them."""

import socket
from ipaddress import IPv4Address

import pytest

from balancer.domain.observation import ConnectionCount, Observation
from balancer.domain.types import Protocol, Service
from balancer.kernel.base import DriverName, Flavour, Receipt
from balancer.kernel.fates import Fate, Group, count_fates
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import BACKENDS, Wires, ask_udp, document, ruleset, service

FIRST, SECOND, THIRD = BACKENDS[:3]
HERE = "198.51.100.1"


def named(*services: dict) -> dict[str, Service | None]:
    return {found.name: found for found in document(*services).services}


def backends(**states: str) -> list[dict]:
    places = {"first": FIRST, "second": SECOND, "third": THIRD}
    return [{"address": places[name], "state": state} for name, state in states.items()]


def web(**fields: object) -> dict:
    return service("web", backends=backends(first="enabled", second="enabled")) | fields


def dns(**fields: object) -> dict:
    return (
        service("dns", protocol="udp", port=53, backends=backends(first="enabled", second="enabled")) | fields
    )


def seen(protocol: str, backend: str, *, number: int = 1, to: str = HERE, port: int = 80) -> ConnectionCount:
    return ConnectionCount(
        protocol=Protocol(protocol),
        address=IPv4Address(to),
        port=port,
        backend=backend,
        entries=number,
        established=number,
    )


def fates(
    before: tuple[dict, ...],
    after: tuple[dict, ...],
    *connections: ConnectionCount,
    others: tuple[dict, ...] = (),
    known: bool = True,
) -> dict[tuple[str, str, str], int]:
    """(service, backend, fate) -> number."""
    gone = {found["name"] for found in before} - {found["name"] for found in after}
    counts = count_fates(
        before=named(*before),
        after=named(*after) | dict.fromkeys(gone),
        others=document(*others).services,
        seen=Observation(connections=connections) if known else None,
        local_addresses=frozenset({IPv4Address(HERE)}),
    )
    return {(group.service, group.backend, group.fate.value): count for group, count in counts.items()}


def test_backends_of_the_service_are_there_even_when_nobody_uses_them() -> None:
    assert fates((web(),), (web(),), seen("tcp", f"{FIRST}:80", number=3)) == {
        ("web", f"{FIRST}:80", "stay"): 3,
        ("web", f"{SECOND}:80", "stay"): 0,
    }


def test_a_service_that_was_not_there_has_nothing_to_lose() -> None:
    assert fates((), (web(),)) == {}
    assert fates((web(enabled=False),), (web(),)) == {}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((web(backends=backends(first="draining", second="enabled")),), "stay"),
        ((web(backends=backends(first="disabled", second="enabled")),), "cut"),
        ((web(backends=backends(second="enabled")),), "stay-until-they-end"),
        ((web(enabled=False),), "stay-until-they-end"),
        ((web(port=81),), "stay-until-they-end"),
        ((web(address="198.51.100.9"),), "stay-until-they-end"),
        ((web(interface="eth1"),), "stay"),
        ((), "stay-until-they-end"),
    ],
)
def test_tcp_connections_live_on_unless_their_backend_is_disabled(
    after: tuple[dict, ...], expected: str
) -> None:
    assert fates((web(),), after, seen("tcp", f"{FIRST}:80"))["web", f"{FIRST}:80", expected] == 1


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((dns(backends=backends(first="draining", second="enabled")),), "stay"),
        ((dns(backends=backends(first="disabled", second="enabled")),), "flushed"),
        ((dns(backends=backends(second="enabled")),), "flushed"),
        ((dns(backends=[]),), "flushed"),
        ((dns(enabled=False),), "flushed"),
        ((dns(port=54, backends=[{"address": FIRST, "port": 53}]),), "flushed"),
        ((), "flushed"),
    ],
)
def test_udp_flows_are_flushed_where_their_backend_is_not_kept(
    after: tuple[dict, ...], expected: str
) -> None:
    assert fates((dns(),), after, seen("udp", f"{FIRST}:53", port=53))["dns", f"{FIRST}:53", expected] == 1


def test_connections_of_a_backend_that_went_earlier_are_still_shown() -> None:
    found = fates((web(),), (web(description="new words"),), seen("tcp", f"{THIRD}:80", number=2))
    assert found["web", f"{THIRD}:80", "stay-until-they-end"] == 2


def test_connections_of_a_neighbour_on_the_same_port_are_not_counted() -> None:
    other = service("inside", interface="eth1", backends=backends(third="enabled"))
    found = fates((web(),), (), seen("tcp", f"{THIRD}:80"), seen("tcp", f"{FIRST}:80"), others=(other,))
    assert found == {
        ("web", f"{FIRST}:80", "stay-until-they-end"): 1,
        ("web", f"{SECOND}:80", "stay-until-they-end"): 0,
    }


def test_what_a_neighbour_could_own_too_is_left_alone() -> None:
    other = service("inside", interface="eth1", backends=backends(first="enabled"))
    off = web(backends=backends(first="disabled", second="enabled"))
    assert (
        fates((web(),), (off,), seen("tcp", f"{FIRST}:80"), others=(other,))["web", f"{FIRST}:80", "stay"]
        == 1
    )


def test_clients_of_the_machine_itself_are_flushed_when_a_udp_service_comes() -> None:
    early = seen("udp", "", port=53, number=4)
    elsewhere = seen("udp", "", port=123)
    assert fates((), (dns(),), early, elsewhere) == {("dns", "", "flushed"): 4}
    assert ("dns", "", "flushed") not in fates((dns(),), (), early)


def test_of_a_node_that_is_not_known_the_groups_are_told_and_the_number_is_nobodys() -> None:
    assert set(fates((web(),), (), known=False)) == {
        ("web", f"{FIRST}:80", "stay-until-they-end"),
        ("web", f"{SECOND}:80", "stay-until-they-end"),
    }
    assert set(fates((), (dns(),), known=False)) == {("dns", "", "flushed")}
    assert ("dns", "", "flushed") not in fates((dns(),), (dns(),), known=False)


AFTER = {
    "nothing changes": (web(), dns()),
    "one backend drains": (
        web(backends=backends(first="draining", second="enabled")),
        dns(backends=backends(first="draining", second="enabled")),
    ),
    "one backend is disabled": (
        web(backends=backends(first="disabled", second="enabled")),
        dns(backends=backends(first="disabled", second="enabled")),
    ),
    "one backend is removed": (
        web(backends=backends(second="enabled")),
        dns(backends=backends(second="enabled")),
    ),
    "all backends are removed": (web(backends=[]), dns(backends=[])),
    "all backends are disabled": (
        web(backends=backends(first="disabled", second="disabled")),
        dns(backends=backends(first="disabled", second="disabled")),
    ),
    "both move to another port": (
        web(port=81, backends=[{"address": FIRST, "port": 80}]),
        dns(port=54, backends=[{"address": FIRST, "port": 53}]),
    ),
    "both move to an address": (web(address=HERE), dns(address=HERE)),
    "both move to another address": (web(address="198.51.100.9"), dns(address="198.51.100.9")),
    "both move to another interface": (web(interface="eth1"), dns(interface="eth1")),
    "both are switched off": (web(enabled=False), dns(enabled=False)),
    "both are deleted": (),
    "a third comes to where clients talk to the machine": (
        web(),
        dns(),
        service("time", protocol="udp", port=123, backends=backends(first="enabled")),
    ),
}


@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_what_is_foretold_is_what_a_sync_removes(
    wires: Wires, flavour: Flavour, after: tuple[dict, ...]
) -> None:
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    before = (web(), dns())
    make_connections(kernel, wires, before)
    names = {found["name"] for found in (*before, *after)}
    foretold = count_fates(
        before=dict.fromkeys(names) | named(*before),
        after=dict.fromkeys(names) | named(*after),
        others=(),
        seen=kernel.observe(),
        local_addresses=frozenset({IPv4Address(HERE)}),
    )
    assert sum(foretold.values()) == 9 + ("time" in names)

    receipt = sync(kernel, *after)

    going = {Fate.CUT, Fate.FLUSHED}
    assert receipt.connections_removed == sum(n for group, n in foretold.items() if group.fate in going)
    assert left(kernel) == left_of(foretold, going)


def make_connections(kernel: NodeKernel, wires: Wires, services: tuple[dict, ...]) -> None:
    """Four TCP connections and five UDP flows through both services, and one UDP flow to the machine."""
    with wires.backend.entered():
        for address in (FIRST, SECOND):
            wires.keep(socket.create_server((address, 80)))
    answering = wires.listen_udp(port=53)
    sync(kernel, *services)
    with wires.client.entered():
        for _ in range(4):
            wires.keep(socket.create_connection((HERE, 80), timeout=30))
    for _ in range(5):
        ask_udp(wires.udp_client(port=53), answering)
    wires.udp_client(port=123).send(b"what time is it?")


def sync(kernel: NodeKernel, *services: dict) -> Receipt:
    receipt = kernel.sync(ruleset=ruleset(*services), document=document(*services))
    assert receipt.warnings == ()
    return receipt


def left(kernel: NodeKernel) -> dict[tuple[str, str], int]:
    """(protocol, backend) -> connections, those with a backend."""
    found = kernel.observe().connections
    return {(count.protocol.value, count.backend): count.established for count in found if count.backend}


def left_of(foretold: dict[Group, int], going: set[Fate]) -> dict[tuple[str, str], int]:
    return {
        (group.protocol.value, group.backend): number
        for group, number in foretold.items()
        if group.fate not in going and number
    }
