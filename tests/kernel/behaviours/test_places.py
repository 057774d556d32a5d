"""At which ports, addresses and interfaces a service is found, and where its connections arrive."""

from collections.abc import Iterable
from ipaddress import ip_address

from balancer.domain.types import Protocol
from tests.kernel.behaviours.lab import Flow, Lab, by_backend
from tests.kernel.behaviours.services import (
    ANY_ADDRESS,
    LISTED,
    MIXED,
    ONE_INTERFACE,
    SAME,
    SEVERAL_ADDRESSES,
    SEVERAL_INTERFACES,
    SHIFTED,
)

UDP = Protocol.UDP


def arrivals(lab: Lab, ports: Iterable[int], *, destination: str | None = None) -> dict[int, int | None]:
    """Port -> the backend's port at which a flow to it arrived; None where it is nobody's."""
    to = ip_address(destination or lab.own())
    flows = [Flow(protocol=UDP, source=lab.source(1), destination=to, port=port) for port in ports]
    return {
        flow.port: None if one is None else one.port for flow, one in zip(flows, lab.send(flows), strict=True)
    }


def test_every_port_of_a_range_arrives_at_the_same_port(lab: Lab) -> None:
    ports = range(SAME, SAME + 100)
    assert arrivals(lab, ports) == {port: port for port in ports}


def test_every_port_of_a_shifted_range_keeps_its_distance(lab: Lab) -> None:
    ports = range(SHIFTED, SHIFTED + 100)
    assert arrivals(lab, ports) == {port: port - SHIFTED + 5000 for port in ports}


def test_the_ports_beside_a_range_are_left_alone(lab: Lab) -> None:
    ports = (SAME - 1, SAME + 100, SHIFTED - 1, SHIFTED + 100)
    assert arrivals(lab, ports) == dict.fromkeys(ports)


def test_every_port_of_a_list_is_taken_and_none_between_them(lab: Lab) -> None:
    taken = {LISTED, 2410, *range(2420, 2430)}
    assert arrivals(lab, range(LISTED - 1, 2432)) == {
        port: port + 4000 if port in taken else None for port in range(LISTED - 1, 2432)
    }


def test_several_addresses_are_taken_and_no_other(lab: Lab) -> None:
    for number in (1, 2):
        seen = lab.open(UDP, SEVERAL_ADDRESSES, lab.sources(4), destination=lab.virtual(number))
        assert by_backend(seen) == {lab.sink(1): 2, lab.sink(2): 2}
    for other in (lab.virtual(3), lab.own()):
        assert lab.open(UDP, SEVERAL_ADDRESSES, lab.sources(2), destination=other) == [None, None]


def test_any_address_of_the_node_is_taken_and_none_of_another_machine(lab: Lab) -> None:
    for address in (lab.virtual(4), lab.own(), lab.own(1), lab.places.inside):
        seen = lab.open(UDP, ANY_ADDRESS, lab.sources(2), destination=address)
        assert by_backend(seen) == {lab.sink(1): 1, lab.sink(2): 1}
    seen = lab.open(UDP, ANY_ADDRESS, lab.sources(2), destination=lab.sink(77))
    assert by_backend(seen) == {lab.sink(77): 2}


def test_several_interfaces_are_taken_and_no_other(lab: Lab) -> None:
    for interface, taken in (("eth0", True), ("bond0.100", True), ("eth1", False)):
        seen = lab.open(UDP, SEVERAL_INTERFACES, lab.sources(4), interface=interface)
        assert [one is not None for one in seen] == [taken] * 4


def test_one_interface_is_taken_and_no_other(lab: Lab) -> None:
    for interface, taken in (("eth0", True), ("bond0.100", False), ("eth1", False)):
        seen = lab.open(UDP, ONE_INTERFACE, lab.sources(2), interface=interface)
        assert [one is not None for one in seen] == [taken] * 2


def mixed_backend(lab: Lab, address: int, offset: int) -> str | None:
    """By definition: who has the address comes before who has any; see the services `mixed-…`."""
    if address == 1 and (20 <= offset <= 40 or offset == 45):
        return lab.sink(4 if offset == 45 else 2)
    if address == 2 and 30 <= offset <= 50:
        return lab.sink(3)
    if address in {3, 4} and (0 <= offset <= 10 or offset == 90):
        return lab.sink(5)
    return lab.sink(1) if 0 <= offset <= 99 else None


def test_ranges_that_overlap_on_different_addresses_are_told_apart(lab: Lab) -> None:
    for address in range(1, 5):
        flows = [
            Flow(
                protocol=UDP,
                source=lab.source(3),
                destination=ip_address(lab.virtual(address)),
                port=MIXED + offset,
            )
            for offset in range(-1, 101)
        ]
        found = {
            flow.port - MIXED: None if one is None else str(one.destination)
            for flow, one in zip(flows, lab.send(flows), strict=True)
        }
        assert found == {offset: mixed_backend(lab, address, offset) for offset in range(-1, 101)}
