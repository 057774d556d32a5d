"""Packets and bytes of connections, those that live and those that have gone."""

from pathlib import Path

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.meter import Meter
from balancer.kernel.node import NodeKernel
from balancer.kernel.sampler import Carrying
from balancer.ruleset.compile import compile_document
from tests.kernel.counted_node import Counted, version
from tests.kernel.machine import Namespace, run
from tests.kernel.many import PORT, Crowd

MANY = 10_000


@pytest.fixture
def balanced(crowd: Crowd, tmp_path: Path) -> Counted:
    """One flavour is enough where it is about connections."""
    found = Counted(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE, directory=tmp_path / "counters")
    found.apply(version(crowd, 1))
    return found


def end_all() -> None:
    """In the test's own namespace; some have ended by themselves."""
    run("conntrack", "-F")


def test_packets_and_bytes_are_told_once_whether_their_connection_lives_or_has_gone(
    balanced: Counted, crowd: Crowd
) -> None:
    carrying = Carrying(services=version(crowd, 1).services)
    with balanced.sampling() as sampler:
        first = sampler.look(carrying)
        visited = crowd.visit(range(1, 101))
        second = sampler.look(carrying)
        end_all()
        crowd.visit(range(101, 121))
        end_all()
        last = sampler.look(carrying)

    packet = 20 + 8 + 4
    assert first.carried == {}
    assert sum(one.packets for one in second.carried.values()) == len(visited) == 100
    assert sum(one.bytes for one in second.carried.values()) == 100 * packet
    assert sum(one.current for one in second.carried.values()) == 100
    assert {place[0] for place in second.carried} == {"dns"}
    assert sum(one.packets for one in last.carried.values()) == 20
    assert sum(one.bytes for one in last.carried.values()) == 20 * packet
    assert sum(second.connections.values()) == 100


def test_the_end_of_every_connection_is_heard_of_also_where_many_end_at_once(
    balanced: Counted, crowd: Crowd
) -> None:
    """conntrack -E of version 1.4.7 lost half of them."""
    with balanced.sampling() as sampler:
        carrying = Carrying(services=version(crowd, 1).services)
        sampler.look(carrying)
        crowd.visit(range(1, MANY + 1))
        end_all()
        look = sampler.look(carrying)

    assert sum(one.packets for one in look.carried.values()) == MANY
    assert look.notes == ()


def test_connections_that_could_not_be_heard_of_are_counted_themselves(
    balanced: Counted, crowd: Crowd
) -> None:
    with balanced.sampling(buffer_bytes=10_000) as sampler:
        carrying = Carrying(services=version(crowd, 1).services)
        sampler.look(carrying)
        crowd.visit(range(1, 1001))
        end_all()
        look = sampler.look(carrying)

    heard = sum(one.packets for one in look.carried.values())
    assert 0 < heard < 1000
    assert any(text.startswith(f"{1000 - heard} connections ended faster") for text in look.notes)


def test_the_end_of_a_connection_that_began_while_nobody_listened_is_heard_of(
    balanced: Counted, crowd: Crowd
) -> None:
    carrying = Carrying(services=version(crowd, 1).services)
    crowd.visit(range(1, 101))
    with balanced.sampling() as sampler:
        sampler.look(carrying)
        crowd.send(range(1, 101))
        end_all()
        look = sampler.look(carrying)

    assert sum(one.packets for one in look.carried.values()) == 100


def test_connections_packets_and_bytes_over_ipv6_are_counted_too(
    namespace: Namespace, tmp_path: Path
) -> None:
    crowd, directory = Crowd(namespace, Family.IPV6), tmp_path / "counters"
    wanted = version(crowd, 1)
    kernel = NodeKernel(
        flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE, meter=Meter(directory=directory)
    )
    kernel.sync(ruleset=compile_document(wanted, family=Family.IPV6), document=wanted)
    counted = Counted(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE, directory=directory)
    carrying = Carrying(services=wanted.services)

    with counted.sampling() as sampler:
        sampler.look(carrying)
        visited = crowd.visit(range(1, 51))
        live = sampler.look(carrying)
        crowd.visit(range(51, 101))
        end_all()
        gone = sampler.look(carrying)
    crowd.close()

    packet = 40 + 8 + 4
    for look, most in ((live, 50), (gone, 50)):
        assert sum(one.packets for one in look.carried.values()) == most
        assert sum(one.bytes for one in look.carried.values()) == most * packet
    places = {("dns", f"[{address}]:{PORT}") for address in visited.values()}
    assert places <= set(live.carried)
    assert sum(gone.connections.values()) == 100
