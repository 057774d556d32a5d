"""Clients that stay with their backend."""

from ipaddress import IPv4Address, IPv6Address

from balancer.domain.types import Protocol
from tests.kernel.behaviours.lab import Lab, by_backend
from tests.kernel.behaviours.services import (
    STICKY,
    STICKY_DRAINING,
    STICKY_MANY,
    STICKY_NETWORK,
    services,
    sinks,
)

CLIENTS = 60
SIX, MOST = 3, 18
"""Of six backends, and of forty: clients that choose at random choose more than so many in all but one of a
billion runs."""
Chosen = list[IPv4Address | IPv6Address]


def ask(lab: Lab, port: int, *, count: int = CLIENTS) -> Chosen:
    """The backend of each client, each in a flow of its own."""
    found = lab.open(Protocol.UDP, port, lab.sources(count))
    assert all(one is not None and not one.refusal for one in found)
    return [one.destination for one in found if one is not None]


def test_a_client_keeps_its_backend(lab: Lab) -> None:
    first = ask(lab, STICKY)
    assert len(set(first)) > SIX
    assert ask(lab, STICKY) == first
    assert ask(lab, STICKY) == first


def test_clients_are_kept_among_many_backends_too(lab: Lab) -> None:
    first = ask(lab, STICKY_MANY)
    assert len(set(first)) > MOST
    assert ask(lab, STICKY_MANY) == first


def test_the_clients_of_one_network_stay_together(lab: Lab) -> None:
    networks = range(300, 340)
    firsts = set()
    for network in networks:
        sources = [lab.source(number, network=network) for number in range(5)]
        counts = by_backend(lab.open(Protocol.UDP, STICKY_NETWORK, sources))
        assert len(counts) == 1
        firsts |= set(counts)
    assert len(firsts) > SIX, "different networks are spread"


def test_clients_keep_their_backends_when_something_else_is_applied(lab: Lab) -> None:
    first = ask(lab, STICKY)
    receipt = lab.carry(*services(lab, any={"scheduler": "random"}, none={"enabled": False}))
    assert receipt is not None
    assert "nat" in receipt.tables_committed
    assert ask(lab, STICKY) == first


def test_the_clients_of_a_disabled_backend_move_at_their_next_connection_and_nobody_else(lab: Lab) -> None:
    first = ask(lab, STICKY)
    gone = first[0]
    backends = [
        one | {"state": "disabled" if one["address"] == str(gone) else "enabled"}
        for one in sinks(lab, *range(21, 27))
    ]
    lab.carry(*services(lab, sticky={"backends": backends}))
    after = ask(lab, STICKY)
    assert gone not in after
    assert all(now == before for now, before in zip(after, first, strict=True) if before != gone)
    assert ask(lab, STICKY) == after


def test_a_draining_backend_keeps_its_clients_and_gets_no_new_ones(lab: Lab) -> None:
    first = ask(lab, STICKY_DRAINING)
    drained = first[0]
    backends = [
        one | {"state": "draining" if one["address"] == str(drained) else "enabled"}
        for one in sinks(lab, *range(21, 27))
    ]
    lab.carry(*services(lab, sticky_draining={"backends": backends}))
    both = ask(lab, STICKY_DRAINING, count=2 * CLIENTS)
    assert both[:CLIENTS] == first
    assert drained not in both[CLIENTS:]
