"""Acceptance: a client keeps its backend for as long as it may, through whatever is applied meanwhile.

Outside a campaign a thousand clients and a few applies; with LBADMIN_CAMPAIGN 50,000 and a hundred.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.kernel.crowd import PORT, Street
from tests.kernel.machine import Namespace, document, service

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
CLIENTS, APPLIES = (50_000, 100) if CAMPAIGN else (1_000, 5)
SCHEDULERS = ("round-robin", "random", "source-hash")


@pytest.fixture
def street(namespace: Namespace) -> Iterator[Street]:
    built = Street(
        namespace, outside="198.51.100.0/24", inside="10.0.0.0/24", crowd="172.16.0.0/12", backends=5
    )
    yield built
    built.close()


@pytest.fixture
def street6(namespace: Namespace) -> Iterator[Street]:
    built = Street(
        namespace, outside="fd00:1::/64", inside="fd00:2::/64", crowd="2001:db8:1::/64", backends=4
    )
    yield built
    built.close()


@pytest.fixture
def balancer(namespace: Namespace, flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour, wait_seconds=5)


def dns(street: Street, **fields: Any) -> dict[str, Any]:
    """Four backends, whoever else is on the street."""
    return service(
        "dns",
        protocol="udp",
        port=PORT,
        **{
            "persistence": {"mode": "source"},
            "source_nat": {"mode": "none"},
            "backends": [{"address": address} for address in street.backends[:4]],
            **fields,
        },
    )


def sync(kernel: NodeKernel, *services: dict[str, Any]) -> bool:
    found = document(*services)
    family = found.services[0].family
    return kernel.sync(ruleset=compile_document(found, family=family), document=found).changed


def changed(street: Street, number: int) -> list[dict[str, Any]]:
    """A document that differs from the one before in scheduler, weights, timeout, backends and neighbours."""
    weights = [1 + (number * place) % 5 for place in range(4)]
    backends = [
        {"address": address, "weight": weight}
        for address, weight in zip(street.backends[:4], weights, strict=True)
    ]
    if number % 2 and len(street.backends) > 4:
        backends.append({"address": street.backends[4]})
    persistence = {"mode": "source", "timeout": 300 + number}
    neighbour = dns(street) | {"name": f"n{number % 7}", "port": 1000 + number}
    scheduler = SCHEDULERS[number % len(SCHEDULERS)]
    return [dns(street, scheduler=scheduler, backends=backends, persistence=persistence), neighbour]


def test_clients_keep_their_backend_through_changed_rulesets(street: Street, balancer: NodeKernel) -> None:
    everybody = range(CLIENTS)
    sync(balancer, dns(street))
    first = street.visit(everybody)
    assert {len([n for n in everybody if first[n] == a]) for a in street.backends[:4]} == {CLIENTS // 4}
    started, applying = time.monotonic(), 0.0
    for number in range(1, APPLIES + 1):
        before = time.monotonic()
        assert sync(balancer, *changed(street, number))
        applying += time.monotonic() - before
        assert street.visit(everybody) == first, f"after apply {number}"
    in_all = time.monotonic() - started
    print(
        f"{CLIENTS} clients, {APPLIES} applies: {in_all:.0f} s, of which an apply {applying / APPLIES:.3f} s"
    )


def test_the_clients_of_a_disabled_backend_move_and_nobody_else_does(
    street: Street, balancer: NodeKernel
) -> None:
    everybody = range(CLIENTS)
    sync(balancer, dns(street))
    first = street.visit(everybody)
    *others, gone = street.backends[:4]
    backends = [{"address": address} for address in others]

    sync(balancer, dns(street, backends=[*backends, {"address": gone, "state": "disabled"}]))
    second = street.visit(everybody)

    assert {n for n in everybody if second[n] != first[n]} == {n for n in everybody if first[n] == gone}
    assert gone not in second.values()
    sync(balancer, dns(street))
    assert street.visit(everybody) == second, "back again, it gets new clients only"


def test_the_clients_of_a_draining_backend_stay(street: Street, balancer: NodeKernel) -> None:
    sync(balancer, dns(street))
    first = street.visit(range(100))
    *others, slow = street.backends[:4]
    backends = [{"address": address} for address in others]
    sync(balancer, dns(street, backends=[*backends, {"address": slow, "state": "draining"}]))
    assert street.visit(range(100)) == first
    assert slow not in street.visit(range(100, 200)).values()


def test_a_client_is_kept_for_the_timeout_after_its_last_new_connection(
    street: Street, balancer: NodeKernel
) -> None:
    sync(balancer, dns(street, persistence={"mode": "source", "timeout": 2}))
    clients = range(5)  # one more than backends, so that a second round of turns moves every one
    first = street.visit(clients)
    for _ in range(2):
        time.sleep(1.2)
        assert street.visit(clients) == first, "a new connection renews it"
    assert sum(balancer.count_clients().values()) == 5
    time.sleep(2.3)
    assert sum(balancer.count_clients().values()) == 0
    moved = street.visit(clients)
    assert all(moved[client] != first[client] for client in clients)


def test_a_prefix_keeps_neighbours_together(street: Street, balancer: NodeKernel) -> None:
    sync(balancer, dns(street, persistence={"mode": "source", "prefix": 24}))
    networks = 12
    people = [network * 256 + host for network in range(networks) for host in range(0, 250, 7)]
    found = street.visit(people)
    chosen = [{found[n] for n in people if n // 256 == network} for network in range(networks)]
    assert all(len(backends) == 1 for backends in chosen), chosen
    assert set().union(*chosen) == set(street.backends[:4])
    assert sum(balancer.count_clients().values()) == networks


def test_clients_that_are_forgotten_choose_anew(street: Street, balancer: NodeKernel) -> None:
    everybody = range(101)  # no multiple of the backends: turns go on where they were
    found = document(dns(street))
    sync(balancer, dns(street))
    first = street.visit(everybody)
    (dns_service,) = found.services
    assert balancer.forget_clients(service=dns_service) == 101
    second = street.visit(everybody)
    assert all(second[n] != first[n] for n in everybody)


def test_ipv6_clients_keep_their_backend_and_move_when_it_is_disabled(
    street6: Street, flavour: Flavour
) -> None:
    balancer = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE, wait_seconds=5)
    everybody = range(200)
    assert document(dns(street6)).services[0].family is Family.IPV6
    sync(balancer, dns(street6))
    first = street6.visit(everybody)
    for number in range(1, 4):
        sync(balancer, *changed(street6, number))
        assert street6.visit(everybody) == first
    *others, gone = street6.backends
    backends = [{"address": address} for address in others]
    sync(balancer, dns(street6, backends=[*backends, {"address": gone, "state": "disabled"}]))
    second = street6.visit(everybody)
    assert {n for n in everybody if second[n] != first[n]} == {n for n in everybody if first[n] == gone}
