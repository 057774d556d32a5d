"""The health daemon as a process beside a real worker: from a killed backend to the rules in the kernel."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from django.utils import timezone
from pytest_django import Settings

from balancer import wiring
from balancer.domain.health import HealthState
from balancer.kernel.base import Flavour
from balancer.models import BackendHealth, NodeHealth
from balancer.workflow.queries import view_health
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.kernel.machine import Namespace, Wires, save
from tests.probes.health.servers import OK, answer, tcp_server
from tests.stack.machinery import Stack, eventually
from tests.stack.site import NFT, events, make_site, wait_for_end, wait_for_worker
from tests.stopwatch import Stopwatch

FIRST, SECOND = "10.0.0.3", "10.0.0.4"
INTERVAL, RISE, FALL = 1, 2, 2
HEALTH = {"kind": "http", "interval": INTERVAL, "timeout": 1, "rise": RISE, "fall": FALL}


@contextmanager
def backend(wires: Wires, address: str) -> Iterator[None]:
    """A web server behind the node."""
    with wires.backend.entered():
        server = tcp_server(answer(OK), address=address, port=80)
        server.__enter__()
    try:
        yield
    finally:
        server.__exit__(None, None, None)


def sends_to(inside: Namespace, address: str) -> bool:
    """Whether a rule of the real kernel sends new connections to the backend's chain."""
    with inside.entered():
        return f"-g LB-S-web:{address}-80" in save(Flavour.NFT)


def states(site: Site) -> set[HealthState]:
    found = view_health(cluster=site.cluster, name="web", now=timezone.now())
    assert found is not None
    return {one.state for on_nodes in found.backends.values() for one in on_nodes}


def test_a_killed_backend_leaves_the_kernel_in_time_and_the_daemon_may_die(
    stack: Stack, namespace: Namespace
) -> None:
    site, inside, wires = make_site("lb1"), namespace, Wires(namespace)
    stack.worker("lb1", inside=inside, **NFT)
    daemon = stack.health("lb1", inside=inside, **NFT)
    wait_for_worker("lb1", stack=stack)
    backends = [backend_data(FIRST), backend_data(SECOND)]
    with backend(wires, SECOND):
        with backend(wires, FIRST):
            deployment = site.start(service_data("web", health=HEALTH, backends=backends))
            assert wait_for_end(deployment).state == "succeeded", deployment.error
            eventually(lambda: BackendHealth.objects.filter(up=True).count() == 2, what="both are seen up")
        killed = Stopwatch()
        eventually(lambda: not sends_to(inside, FIRST), what="the end of the killed backend")
        took = killed.own
        print(f"out of the kernel {killed.seconds:.2f} s after it was killed")
        assert sends_to(inside, SECOND)
        assert "connection refused after" in BackendHealth.objects.get(up=False).reason
        assert took <= FALL * INTERVAL + 1

        with backend(wires, FIRST):
            back = Stopwatch()
            eventually(lambda: sends_to(inside, FIRST), what="the return")
            took = back.own
            print(f"back in the kernel {back.seconds:.2f} s after it was there again")
            assert took <= RISE * INTERVAL + 3

            daemon.kill()
            beat = NodeHealth.objects.get().checked_at
            eventually(lambda: states(site) == {HealthState.UNKNOWN}, what="the states to age")
            with wires.client.entered(), socket.create_connection((wires.service_address, 80), timeout=30):
                pass
        assert sends_to(inside, FIRST), "nobody looks any more, and traffic goes on as it was"
        assert NodeHealth.objects.get().checked_at == beat

        again = stack.health("lb1", inside=inside, **NFT)
        eventually(lambda: not sends_to(inside, FIRST), what="the next daemon's finding")
    assert again.terminate() == 0
    assert events("worker.refused") == []
    wires.close()


def test_a_worker_that_is_away_is_not_reminded_without_end(stack: Stack, settings: Settings) -> None:
    settings.LBADMIN_NODE, settings.LBADMIN_REDIS_URL = "lb1", stack.env["LBADMIN_REDIS_URL"]

    for _ in range(6):
        wiring.wake_own_node()

    assert stack.broker.llen("node.lb1") == wiring.WAITING_MAX + 1
