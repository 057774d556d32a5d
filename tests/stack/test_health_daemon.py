"""From a backend that dies to a kernel that sends it nobody: daemon, rows, broker, worker, rules."""

import socket
import time
from collections.abc import Callable

from django.utils import timezone

from balancer.domain.health import HealthState
from balancer.kernel.base import Flavour
from balancer.models import BackendHealth, HealthEvent
from balancer.workflow.queries import view_health
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.kernel.machine import BACKENDS, Namespace, Wires
from tests.stack.machinery import Stack, eventually
from tests.stack.site import NFT, make_site, wait_for_end, wait_for_worker
from tests.stack.test_overrides import chosen, is_chosen

ONE, TWO = (f"{address}:80" for address in BACKENDS[:2])
INTERVAL, FALL, RISE = 1, 2, 2
SLACK = 1.5
"""Beyond fall (rise) times the interval: a second as it was asked for, and what a busy machine needs."""


def listen(wires: Wires, endpoint: str) -> socket.socket:
    """A program that accepts, and says nothing."""
    with wires.backend.entered():
        found = wires.keep(socket.socket())
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((endpoint.partition(":")[0], 80))
    found.listen(200)
    return found


def took(condition: Callable[[], bool], *, what: str, within: float) -> None:
    started = time.monotonic()
    eventually(condition, what=what, within=within)
    print(f"{what} took {time.monotonic() - started:.2f} s")


def states(site: Site) -> set[HealthState]:
    found = view_health(cluster=site.cluster, name="web", now=timezone.now())
    assert found is not None
    return {one.state for on_nodes in found.backends.values() for one in on_nodes}


def test_a_dead_backend_leaves_and_comes_back_and_a_dead_daemon_changes_nothing(stack: Stack) -> None:
    inside = Namespace()
    wires, place = Wires(inside), (inside, Flavour.NFT)
    site = make_site("lb1")
    stack.worker("lb1", inside=inside, **NFT)
    servers = {endpoint: listen(wires, endpoint) for endpoint in (ONE, TWO)}
    wait_for_worker("lb1", stack=stack)
    check = {"kind": "tcp", "interval": INTERVAL, "timeout": 1, "fall": FALL, "rise": RISE}
    backends = [backend_data(address, port=80) for address in BACKENDS[:2]]
    assert wait_for_end(site.start(service_data("web", health=check, backends=backends))).state == "succeeded"
    daemon = stack.health("lb1", inside=inside, **NFT)
    eventually(lambda: BackendHealth.objects.filter(up=True).count() == 2, what="the first checks")

    servers[ONE].close()
    took(
        lambda: not is_chosen(ONE, chosen(place)),
        what="a dead backend's way out",
        within=FALL * INTERVAL + SLACK,
    )
    (event,) = HealthEvent.objects.all()
    assert (event.kind, event.endpoint) == ("down", ONE)
    assert "refused" in event.why

    listen(wires, ONE)
    took(
        lambda: is_chosen(ONE, chosen(place)),
        what="its way back",
        within=(RISE + 1) * INTERVAL + SLACK,
    )
    assert states(site) == {HealthState.UP}

    daemon.close()
    before = chosen(place)
    eventually(lambda: states(site) == {HealthState.UNKNOWN}, what="the states to age", within=8)
    assert chosen(place) == before
    with wires.client.entered(), socket.create_connection((wires.service_address, 80), timeout=3):
        pass
    wires.close()
    inside.close()
