"""Whose a remembered connection is, where one service takes any address and another names one."""

from collections import Counter
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings

from balancer.domain.observation import ConnectionCount, Observation
from balancer.domain.types import Backend, BackendState, Document, Family, Protocol, Service
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.conntrack import Flows, Judge
from balancer.kernel.fates import Fate, count_fates
from balancer.kernel.loads import attribute
from balancer.kernel.node import NodeKernel
from tests.documents import SCENES, any_carried
from tests.kernel.machine import BACKENDS, Wires, ask_udp, document, ruleset, service
from tests.ruleset.definition import arrival, expected_service, packets_to

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


@given(any_carried())
@settings(max_examples=25)
def test_a_flow_stays_where_the_service_that_its_next_packet_finds_has_its_backend(one: Document) -> None:
    """Of UDP, for every client whose interface is known: asked of the document, not of the rules."""
    for family in Family:
        local = frozenset(map(ip_address, SCENES[family].virtual))
        asked = Judge(one, family=family, local_addresses=local)
        udp = [s for s in one.services if s.protocol is Protocol.UDP and s.family is family]
        for packet in [packet for each in udp for packet in packets_to(each) if packet.interface]:
            found = expected_service(one, packet)
            chain = chain_of(one, found) if found else []
            kept = {arrival(s, b, packet.port) for s in chain for b in s.backends if keeps(b)}
            ends = {arrival(s, b, packet.port) for s in udp for b in s.backends}
            for end in ends:
                host, _, port = end.rpartition(":")
                flow = Flows(
                    protocol=Protocol.UDP,
                    address=packet.destination,
                    port=packet.port,
                    answered_by=ip_address(host.strip("[]")),
                    answered_port=int(port),
                    mark=0x10000000,
                )
                if found is not None and flow.is_balanced:
                    assert asked.is_stale(flow, interface=packet.interface) is (end not in kept), (
                        packet,
                        end,
                    )


def keeps(backend: Backend) -> bool:
    return backend.up and backend.state is not BackendState.DISABLED


def chain_of(one: Document, service: Service) -> list[Service]:
    """The service, and those that stand in for it now."""
    chain = [service]
    while chain[-1].stand_in is not None:
        chain.append(next(s for s in one.services if s.name == chain[-1].stand_in))
    return chain


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
