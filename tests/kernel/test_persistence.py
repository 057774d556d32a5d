"""Acceptance: a client keeps its backend for as long as it may, through whatever is applied meanwhile.

Outside a campaign a thousand clients and a few applies; with LBADMIN_CAMPAIGN 50,000 and a hundred.
"""

import os
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from balancer.domain.types import Address, Family
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.kernel.machine import Namespace, document, service
from tests.kernel.many import PORT, Crowd

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
CLIENTS, APPLIES = (50_000, 100) if CAMPAIGN else (1_000, 5)
TIMEOUT = 2
SCHEDULERS = ("round-robin", "random", "source-hash")


@pytest.fixture
def crowd6(namespace: Namespace) -> Iterator[Crowd]:
    built = Crowd(namespace, Family.IPV6)
    yield built
    built.close()


@pytest.fixture
def balancer(namespace: Namespace, flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour, wait_seconds=5)


def backends_of(crowd: Crowd, number: int = 4) -> tuple[Address, ...]:
    return tuple(crowd.plan.backend(place) for place in range(number))


def dns(crowd: Crowd, **fields: Any) -> dict[str, Any]:
    """Four backends, whoever else is on the crowd."""
    return service(
        "dns",
        protocol="udp",
        port=PORT,
        **{
            "persistence": {"mode": "source"},
            "source_nat": {"mode": "none"},
            "backends": [{"address": str(address)} for address in backends_of(crowd)],
            **fields,
        },
    )


def sync(kernel: NodeKernel, *services: dict[str, Any]) -> bool:
    found = document(*services)
    family = found.services[0].family
    return kernel.sync(ruleset=compile_document(found, family=family), document=found).changed


def changed(crowd: Crowd, number: int) -> list[dict[str, Any]]:
    """A document that differs from the one before in scheduler, weights, timeout, backends and neighbours."""
    weights = [1 + (number * place) % 5 for place in range(4)]
    backends = [
        {"address": str(address), "weight": weight}
        for address, weight in zip(backends_of(crowd), weights, strict=True)
    ]
    if number % 2:
        backends.append({"address": str(crowd.plan.backend(4))})
    persistence = {"mode": "source", "timeout": 300 + number}
    neighbour = dns(crowd) | {"name": f"n{number % 7}", "port": 1000 + number}
    scheduler = SCHEDULERS[number % len(SCHEDULERS)]
    return [dns(crowd, scheduler=scheduler, backends=backends, persistence=persistence), neighbour]


def test_clients_keep_their_backend_through_changed_rulesets(crowd: Crowd, balancer: NodeKernel) -> None:
    everybody = range(1, CLIENTS + 1)
    sync(balancer, dns(crowd))
    first = crowd.visit(everybody)
    assert {len([n for n in everybody if first[n] == a]) for a in backends_of(crowd)} == {CLIENTS // 4}
    started, applying = time.monotonic(), 0.0
    for number in range(1, APPLIES + 1):
        before = time.monotonic()
        assert sync(balancer, *changed(crowd, number))
        applying += time.monotonic() - before
        assert crowd.visit(everybody) == first, f"after apply {number}"
    in_all = time.monotonic() - started
    print(
        f"{CLIENTS} clients, {APPLIES} applies: {in_all:.0f} s, of which an apply {applying / APPLIES:.3f} s"
    )


def test_the_clients_of_a_disabled_backend_move_and_nobody_else_does(
    crowd: Crowd, balancer: NodeKernel
) -> None:
    everybody = range(1, CLIENTS + 1)
    sync(balancer, dns(crowd))
    first = crowd.visit(everybody)
    *others, gone = backends_of(crowd)
    backends = [{"address": str(address)} for address in others]

    sync(balancer, dns(crowd, backends=[*backends, {"address": str(gone), "state": "disabled"}]))
    second = crowd.visit(everybody)

    assert {n for n in everybody if second[n] != first[n]} == {n for n in everybody if first[n] == gone}
    assert gone not in second.values()
    sync(balancer, dns(crowd))
    assert crowd.visit(everybody) == second, "back again, it gets new clients only"


def test_the_clients_of_a_draining_backend_stay(crowd: Crowd, balancer: NodeKernel) -> None:
    sync(balancer, dns(crowd))
    first = crowd.visit(range(1, 101))
    *others, slow = backends_of(crowd)
    backends = [{"address": str(address)} for address in others]
    sync(balancer, dns(crowd, backends=[*backends, {"address": str(slow), "state": "draining"}]))
    assert crowd.visit(range(1, 101)) == first
    assert slow not in crowd.visit(range(101, 201)).values()


def keep_coming(
    crowd: Crowd, balancer: NodeKernel, clients: range
) -> tuple[dict[int, Address], list[int], bool]:
    """The backends that clients had all the time, how many clients were counted, and whether each came again
    within the timeout."""
    visits, counts, gaps = [], [], []
    for number in range(3):
        time.sleep(0.6 * TIMEOUT * bool(number))
        began = time.monotonic()
        visits.append(crowd.visit(clients))
        counts.append(sum(balancer.count_clients().values()))
        gaps.append((began, time.monotonic()))
    in_time = all(after[1] - before[0] < TIMEOUT for before, after in pairwise(gaps))
    assert not in_time or visits == [visits[0]] * 3, "a new connection renews it"
    return visits[0], counts, in_time


def test_a_client_is_kept_for_the_timeout_after_its_last_new_connection(
    crowd: Crowd, balancer: NodeKernel
) -> None:
    sync(balancer, dns(crowd, persistence={"mode": "source", "timeout": TIMEOUT}))
    clients = range(1, 6)  # one more than backends, so that a second round of turns moves every one
    for _ in range(10):
        first, counts, in_time = keep_coming(crowd, balancer, clients)
        if in_time:
            break  # or this machine had other things to do, and they were rightly forgotten meanwhile
    assert in_time, f"this machine is too busy to do anything within {TIMEOUT} seconds"
    assert counts == [5] * 3
    time.sleep(TIMEOUT + 0.3)
    assert sum(balancer.count_clients().values()) == 0
    moved = crowd.visit(clients)
    assert all(moved[client] != first[client] for client in clients)


def test_a_prefix_keeps_neighbours_together(crowd: Crowd, balancer: NodeKernel) -> None:
    sync(balancer, dns(crowd, persistence={"mode": "source", "prefix": 24}))
    networks = 12
    people = [network * 256 + host for network in range(networks) for host in range(1, 250, 7)]
    found = crowd.visit(people)
    chosen = [{found[n] for n in people if n // 256 == network} for network in range(networks)]
    assert all(len(backends) == 1 for backends in chosen), chosen
    assert set().union(*chosen) == set(backends_of(crowd))
    assert sum(balancer.count_clients().values()) == networks


def test_clients_that_are_forgotten_choose_anew(crowd: Crowd, balancer: NodeKernel) -> None:
    everybody = range(1, 102)  # no multiple of the backends: turns go on where they were
    found = document(dns(crowd))
    sync(balancer, dns(crowd))
    first = crowd.visit(everybody)
    (dns_service,) = found.services
    assert balancer.forget_clients(service=dns_service) == 101
    second = crowd.visit(everybody)
    assert all(second[n] != first[n] for n in everybody)


def test_ipv6_clients_keep_their_backend_and_move_when_it_is_disabled(
    crowd6: Crowd, flavour: Flavour
) -> None:
    balancer = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE, wait_seconds=5)
    everybody = range(1, 201)
    assert document(dns(crowd6)).services[0].family is Family.IPV6
    sync(balancer, dns(crowd6))
    first = crowd6.visit(everybody)
    for number in range(1, 4):
        sync(balancer, *changed(crowd6, number))
        assert crowd6.visit(everybody) == first
    *others, gone = backends_of(crowd6)
    backends = [{"address": str(address)} for address in others]
    sync(balancer, dns(crowd6, backends=[*backends, {"address": str(gone), "state": "disabled"}]))
    second = crowd6.visit(everybody)
    assert {n for n in everybody if second[n] != first[n]} == {n for n in everybody if first[n] == gone}
