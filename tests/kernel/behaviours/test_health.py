"""What becomes of connections when backends are found down, and when they are back."""

from ipaddress import ip_address

from balancer.domain.health_overlay import HealthOverlay, with_health
from balancer.domain.types import Protocol, format_endpoint
from tests.kernel.behaviours.lab import Flow, Lab, by_backend
from tests.kernel.behaviours.packets import Seen
from tests.kernel.behaviours.services import (
    CHECKED,
    CHECKED_AWAY,
    CHECKED_LIVE,
    CHECKED_REFUSE,
    CHECKED_STICKY,
    services,
)
from tests.kernel.behaviours.test_surroundings import pair, talk
from tests.kernel.machine import document

UDP = Protocol.UDP
FLOW = 0xE0000001
PORTS = {
    "checked": CHECKED,
    "checked-refuse": CHECKED_REFUSE,
    "checked-away": CHECKED_AWAY,
    "checked-live": CHECKED_LIVE,
    "checked-sticky": CHECKED_STICKY,
}


def find_down(lab: Lab, name: str, *addresses: str) -> None:
    """The node carries what its checks found: these backends of the service are down, and no others."""
    endpoints = [format_endpoint(address=ip_address(a), port=PORTS[name]) for a in sorted(addresses)]
    overlay = HealthOverlay(down={name: tuple(sorted(endpoints))} if endpoints else {})
    lab.carry_document(with_health(document(*services(lab)), overlay))


def ask_again(lab: Lab, port: int) -> Seen | None:
    """One flow that goes on, whatever becomes of it."""
    source = lab.source(9, network=9)
    return lab.go_on(FLOW, Flow(protocol=UDP, source=source, destination=ip_address(lab.own()), port=port))


def where(seen: Seen | None) -> str:
    assert seen is not None
    return "refused" if seen.refusal else str(seen.destination)


def test_a_backend_that_is_down_gets_nothing_new_and_the_others_take_its_share(lab: Lab) -> None:
    find_down(lab, "checked", lab.sink(2))
    assert by_backend(lab.open(UDP, CHECKED, lab.sources(12))) == {lab.sink(1): 6, lab.sink(3): 6}

    find_down(lab, "checked")
    assert by_backend(lab.open(UDP, CHECKED, lab.strangers(12))) == {lab.sink(n): 4 for n in (1, 2, 3)}


def test_established_TCP_connections_of_a_backend_that_goes_down_live_on(lab: Lab) -> None:
    pairs = pair(lab, CHECKED_LIVE)
    find_down(lab, "checked-live", lab.live(1))
    for client, server in pairs.values():
        talk(client, server)
    assert by_backend(lab.open(Protocol.TCP, CHECKED_LIVE, lab.sources(6))) == {lab.live(2): 6}


def test_the_UDP_flow_of_a_client_leaves_a_backend_that_goes_down(lab: Lab) -> None:
    first = where(ask_again(lab, CHECKED))
    assert where(ask_again(lab, CHECKED)) == first, "a flow stays with its backend"
    find_down(lab, "checked", first)
    after = where(ask_again(lab, CHECKED))
    assert after not in {first, "refused"}


def test_a_client_that_is_remembered_by_a_backend_that_goes_down_goes_elsewhere(lab: Lab) -> None:
    clients = lab.strangers(6)
    before = [where(seen) for seen in lab.open(UDP, CHECKED_STICKY, clients)]
    find_down(lab, "checked-sticky", before[0])
    after = [where(seen) for seen in lab.open(UDP, CHECKED_STICKY, clients)]
    assert before[0] not in after
    kept = [(was, now) for was, now in zip(before, after, strict=True) if was != before[0]]
    assert kept
    assert all(was == now for was, now in kept), "and nobody else moves"


def test_with_all_backends_down_the_policy_keep_serves_all_of_them(lab: Lab) -> None:
    find_down(lab, "checked", *(lab.sink(number) for number in (1, 2, 3)))
    assert by_backend(lab.open(UDP, CHECKED, lab.strangers(12))) == {lab.sink(n): 4 for n in (1, 2, 3)}


def test_with_all_backends_down_the_policy_refuse_refuses_new_connections_at_once(lab: Lab) -> None:
    find_down(lab, "checked-refuse", *(lab.sink(number) for number in (1, 2, 3)))
    seen = lab.open(UDP, CHECKED_REFUSE, lab.strangers(5))
    assert [where(one) for one in seen] == ["refused"] * 5
    find_down(lab, "checked-refuse", lab.sink(1), lab.sink(2))
    assert by_backend(lab.open(UDP, CHECKED_REFUSE, lab.strangers(5))) == {lab.sink(3): 5}


def test_with_all_backends_down_another_service_takes_the_connections_its_own_way(lab: Lab) -> None:
    find_down(lab, "checked-away", *(lab.sink(number) for number in (1, 2, 3)))
    seen = lab.open(UDP, CHECKED_AWAY, lab.strangers(5))
    assert by_backend(seen) == {lab.sink(9): 5}
    assert {(str(one.source), one.port) for one in seen if one} == {(lab.pool(1), 99)}


def test_a_UDP_flow_goes_to_the_service_that_stands_in_and_comes_back(lab: Lab) -> None:
    own = {lab.sink(number) for number in (1, 2, 3)}
    assert where(ask_again(lab, CHECKED_AWAY)) in own
    find_down(lab, "checked-away", *own)
    assert where(ask_again(lab, CHECKED_AWAY)) == lab.sink(9)
    assert where(ask_again(lab, CHECKED_AWAY)) == lab.sink(9)
    find_down(lab, "checked-away", lab.sink(1), lab.sink(2))
    assert where(ask_again(lab, CHECKED_AWAY)) == lab.sink(3)
