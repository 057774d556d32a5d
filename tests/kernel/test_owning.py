"""Whose a remembered connection is, where one service takes any address and another names one."""

from collections import Counter
from ipaddress import IPv4Address

import pytest

from balancer.domain.observation import ConnectionCount, Observation
from balancer.domain.types import Document, Family, Protocol
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.conntrack import Flows, Judge
from balancer.kernel.fates import Fate, count_fates
from balancer.kernel.loads import attribute
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import BACKENDS, Wires, ask_udp, document, ruleset, service

FIRST, SECOND = BACKENDS[:2]
HERE = "198.51.100.1"


def wide(*states: str, **fields: object) -> dict:
    """Takes any address."""
    found = [{"address": a, "state": state} for a, state in zip(BACKENDS, states, strict=False)]
    return service("wide", backends=found, **fields)


def narrow(*addresses: str, **fields: object) -> dict:
    """Names its address."""
    return service("narrow", address=HERE, backends=[{"address": a} for a in addresses], **fields)


def flow(backend: str = FIRST, *, protocol: str = "tcp", to: str = HERE) -> Flows:
    return Flows(
        protocol=Protocol(protocol),
        address=IPv4Address(to),
        port=80,
        answered_by=IPv4Address(backend),
        answered_port=80,
        mark=0x30000000,
    )


def judge(carried: Document) -> Judge:
    return Judge(carried, family=Family.IPV4, local_addresses=frozenset({IPv4Address(HERE)}))


def test_a_disable_where_any_address_is_taken_cuts_nothing_of_the_service_that_names_it() -> None:
    """The one that names it has removed the backend, so that what is there lives until it ends."""
    carried = judge(document(wide("disabled", "enabled"), narrow(SECOND)))
    assert not carried.is_stale(flow(FIRST))
    assert carried.is_stale(flow(FIRST, to="198.51.100.9"))


def test_a_udp_flow_moves_also_where_a_service_that_takes_any_address_keeps_its_backend() -> None:
    carried = judge(document(wide("enabled", protocol="udp"), narrow(SECOND, protocol="udp")))
    assert carried.is_stale(flow(FIRST, protocol="udp"))
    assert not carried.is_stale(flow(FIRST, protocol="udp", to="198.51.100.9"))


@pytest.mark.parametrize("elsewhere", [{"additional_interfaces": ["eth1"]}, {"from_node": True}])
def test_where_the_client_may_have_come_by_another_way_the_flow_is_left_alone(elsewhere: dict) -> None:
    carried = judge(document(wide("enabled", protocol="udp", **elsewhere), narrow(SECOND, protocol="udp")))
    assert not carried.is_stale(flow(FIRST, protocol="udp"))
    assert carried.is_stale(flow(FIRST, protocol="udp"), interface="eth0")


def test_connections_count_for_the_service_to_which_they_lead() -> None:
    services = document(wide("draining", "enabled"), narrow(FIRST)).services
    entries = {(flow(), "ESTABLISHED"): 3, (flow(to="198.51.100.9"), "ESTABLISHED"): 1}
    found: Counter[tuple[str, str]] = Counter()
    for name, endpoint, count in attribute(entries, services):
        found[name, endpoint] += count
    assert found == {("narrow", f"{FIRST}:80"): 3, ("wide", f"{FIRST}:80"): 1}


def test_a_reviewer_is_told_of_the_connections_of_that_service_alone() -> None:
    def seen(to: str, number: int) -> ConnectionCount:
        return ConnectionCount(
            protocol=Protocol.TCP,
            address=IPv4Address(to),
            port=80,
            backend=f"{FIRST}:80",
            entries=number,
            established=number,
        )

    before, after = document(wide("enabled")).services, document(wide("disabled")).services
    counts = count_fates(
        before={"wide": before[0]},
        after={"wide": after[0]},
        others=document(narrow(FIRST)).services,
        seen=Observation(connections=(seen(HERE, 5), seen("198.51.100.9", 2))),
        local_addresses=frozenset({IPv4Address(HERE)}),
    )
    assert {(group.service, group.fate): number for group, number in counts.items()} == {
        ("wide", Fate.CUT): 2
    }


def test_a_client_moves_to_the_service_that_now_names_its_address(wires: Wires, flavour: Flavour) -> None:
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    backends = wires.listen_udp(port=80)
    taking = wide("enabled", protocol="udp")
    kernel.sync(ruleset=ruleset(taking), document=document(taking))
    client = wires.udp_client(port=80)
    assert ask_udp(client, backends) == FIRST

    both = taking, narrow(SECOND, protocol="udp")
    assert kernel.sync(ruleset=ruleset(*both), document=document(*both)).connections_removed == 1
    assert ask_udp(client, backends) == SECOND
