"""source-hash on a real kernel: each client goes to the very backend that is computed for its address."""

import os
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

import pytest

from balancer.domain.types import Address, Document, Family
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.parts import backend_of
from tests.kernel.machine import Namespace, document, service
from tests.kernel.many import PORT, Crowd, Plan

CLIENTS = 10_000 if os.environ.get("LBADMIN_CAMPAIGN") else 1_000
BACKENDS = 10
LOST = 3


@pytest.fixture(params=Family)
def crowd(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[Crowd]:
    built = Crowd(namespace, request.param)
    yield built
    built.close()


@pytest.fixture
def kernel(flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)


def carry(kernel: NodeKernel, plan: Plan, *, without: int | None = None) -> Document:
    """A service whose backends have weights 1, 2 and 3 in turn; `without` is one that is disabled."""
    data = [
        {
            "address": str(plan.backend(i)),
            "weight": 1 + i % 3,
            "state": "disabled" if i == without else "enabled",
        }
        for i in range(BACKENDS)
    ]
    one = document(
        service(protocol="udp", port=PORT, scheduler="source-hash", address=plan.service, backends=data)
    )
    kernel.sync(ruleset=compile_document(one, family=one.services[0].family), document=one)
    return one


def computed(one: Document, plan: Plan, clients: Iterable[int]) -> dict[int, Address]:
    return {number: home(one, plan.client(number)) for number in clients}


def home(one: Document, client: Address) -> Address:
    return backend_of(client, one.services[0].usable_backends).address


def test_the_kernel_picks_the_backend_that_is_computed_and_few_clients_move_for_a_lost_one_and_all_return(
    kernel: NodeKernel, crowd: Crowd
) -> None:
    clients = range(1, 1 + CLIENTS)
    homes = []
    for without in (None, LOST, None):
        one = carry(kernel, crowd.plan, without=without)
        homes.append(crowd.visit(clients))
        assert homes[-1] == computed(one, crowd.plan, clients)
    before, meanwhile, after = homes
    lost = crowd.plan.backend(LOST)
    others = [number for number in clients if before[number] != lost]
    moved = sum(before[number] != meanwhile[number] for number in others)
    print(
        f"{len(clients) - len(others)} clients of the lost backend moved; of the {len(others)} others {moved}"
    )
    assert lost in before.values()
    assert lost not in meanwhile.values()
    assert moved <= len(others) // 20
    assert after == before


@pytest.mark.parametrize("crowd", [Family.IPV6], indirect=True)
def test_ipv6_clients_of_one_provider_are_divided_by_all_of_their_addresses(
    kernel: NodeKernel, crowd: Crowd
) -> None:
    """With xt_cluster they would all be one: it looks at the first 32 bits."""
    one = carry(kernel, crowd.plan)
    first = int(crowd.plan.client(1))
    addresses = {number: IPv6Address(first + number * 0x1_0001_0001_0001) for number in range(100)}
    found = crowd.send_from(addresses)
    assert found == {n: home(one, address) for n, address in addresses.items()}
    assert len(set(found.values())) == BACKENDS
