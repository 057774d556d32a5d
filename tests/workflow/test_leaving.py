"""Backends that drain: who is still with them, counted at ticks until nobody is."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from balancer.domain.types import BackendState, Service
from balancer.kernel.base import Loads, Rejected
from balancer.models import AuditEvent
from balancer.workflow.leaving import does_drain, left_on
from balancer.workflow.overrides import set_override
from balancer.workflow.queries import leaving_of_node, leaving_of_service
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.workflow.ticking import Worker

FIRST = "10.0.0.3:80"


def web(first: str = "enabled", **fields: Any) -> dict[str, Any]:
    backends = [backend_data("10.0.0.3", state=first), backend_data("10.0.0.4")]
    return service_data("web", backends=backends, **fields)


def drain(site: Site, state: BackendState = BackendState.DRAINING) -> None:
    set_override(
        actor=site.operator,
        cluster=site.cluster,
        service="web",
        address="10.0.0.3",
        port=80,
        state=state,
        reason="new disk",
    )


def words_of(site: Site, worker: Worker) -> dict[str, str]:
    """Node -> what is said of the one backend that drains."""
    (found,) = leaving_of_service(cluster=site.cluster, name="web", now=worker.now)
    assert found.endpoint == FIRST
    return {one.node.name: one.words for one in found.nodes}


@pytest.fixture
def worker(site: Site) -> Worker:
    site.deploy(web())
    site.kernels["lb1"].open = {"web": {FIRST: 14, "10.0.0.4:80": 30}}
    return Worker(site)


def settle(worker: Worker) -> None:
    """An override is brought in by one tick, and what it left is counted by the next."""
    worker.tick()
    worker.tick()


def test_nobody_asks_the_kernel_while_no_backend_drains(
    site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.kernels["lb1"], "count_open", lambda **_: pytest.fail("nobody drains"))
    settle(worker)
    assert not does_drain(site.cluster)
    assert leaving_of_service(cluster=site.cluster, name="web") == ()
    assert leaving_of_node(node=worker.node) == ()
    assert (worker.node.leaving, worker.node.leaving_at) == ({}, None)


def test_a_node_counts_nothing_before_it_carries_the_draining(site: Site, worker: Worker) -> None:
    settle(worker)
    drain(site)
    site.kernels["lb1"].fail_next = Rejected("not now")
    worker.tick()
    assert worker.node.leaving == {}, "who is there now says nothing of who still comes"
    assert (
        words_of(site, worker)["lb1"] == "not counted yet; a node counts as soon as it carries the draining"
    )


def test_it_is_counted_down_at_every_tick_until_it_is_empty(site: Site, worker: Worker) -> None:
    drain(site)
    settle(worker)
    events = AuditEvent.objects.count()
    assert words_of(site, worker)["lb1"] == "14 connections left (as of 0 s ago)"

    site.kernels["lb1"].open["web"][FIRST] = 1
    worker.tick()
    worker.now += timedelta(seconds=5)
    assert words_of(site, worker)["lb1"] == "1 connection left (as of 5 s ago)"

    del site.kernels["lb1"].open["web"][FIRST]
    worker.tick()
    empty = worker.now
    worker.tick()
    (found,) = leaving_of_node(node=worker.node, now=worker.now)
    assert (found.service, found.endpoint, found.empty_since) == ("web", FIRST, empty)
    assert found.nodes[0].words == "no connections left (as of 0 s ago)"
    assert AuditEvent.objects.count() == events


def test_services_for_which_the_one_that_drains_stands_in_are_asked_about_too_and_its_neighbours(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads = {"health": {"kind": "tcp"}, "all_down": "service", "all_down_service": "web"}
    site.deploy(
        web("draining"),
        service_data("leads", port=81, **leads),
        service_data("near", address="203.0.113.1"),
        service_data("far", protocol="udp", port=82),
    )
    asked: list[list[str]] = []

    def count(*, services: Sequence[Service]) -> Loads:
        asked.append([service.name for service in services])
        return {"web": {FIRST: 2}}

    monkeypatch.setattr(site.kernels["lb1"], "count_open", count)
    worker = Worker(site)
    worker.tick()
    assert asked == [["leads", "near", "web"]]
    assert list(worker.node.leaving["backends"]) == ["web"]


def test_it_is_empty_once_it_is_so_on_every_node(site: Site, worker: Worker) -> None:
    drain(site)
    other = Worker(site, name="lb2", now=worker.now)
    site.kernels["lb1"].open = {}
    site.kernels["lb2"].open = {"web": {FIRST: 2}}
    settle(worker)
    settle(other)
    (found,) = leaving_of_service(cluster=site.cluster, name="web", now=worker.now)
    assert [one.empty_since for one in found.nodes] == [worker.now, None]
    assert found.empty_since is None

    site.kernels["lb2"].open = {}
    other.tick()
    (found,) = leaving_of_service(cluster=site.cluster, name="web", now=other.now)
    assert found.empty_since == other.now


def test_whoever_is_remembered_may_come_back_and_is_counted_too(site: Site) -> None:
    site.deploy(web("draining", persistence={"mode": "source"}))
    kernel = site.kernels["lb1"]
    kernel.sets.clients["LB-4.32-web:10.0.0.3-80"] |= {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
    worker = Worker(site)
    worker.tick()
    assert words_of(site, worker)["lb1"] == "no connections left, 3 remembered clients (as of 0 s ago)"
    left = left_on(worker.node, service="web", endpoint=FIRST)
    assert left is not None
    assert left.empty_since is None

    kernel.sets.clients["LB-4.32-web:10.0.0.3-80"].clear()
    worker.tick()
    (found,) = leaving_of_node(node=worker.node, now=worker.now)
    assert found.empty_since == worker.now

    kernel.open = {"web": {FIRST: 1}}
    worker.tick()
    (found,) = leaving_of_node(node=worker.node, now=worker.now)
    assert found.empty_since is None, "somebody came back"


@pytest.mark.parametrize(("protocol", "word"), [("udp", "flows"), ("sctp", "associations")])
def test_other_protocols_are_counted_in_their_own_words(site: Site, protocol: str, word: str) -> None:
    site.deploy(web("draining", protocol=protocol))
    site.kernels["lb1"].open = {"web": {FIRST: 2}}
    worker = Worker(site)
    worker.tick()
    assert words_of(site, worker)["lb1"] == f"2 {word} left (as of 0 s ago)"


def test_a_count_that_grew_old_does_not_say_that_a_backend_is_empty(site: Site, worker: Worker) -> None:
    drain(site)
    site.kernels["lb1"].open = {}
    settle(worker)
    worker.now += timedelta(minutes=3)
    (found,) = leaving_of_node(node=worker.node, now=worker.now)
    assert found.empty_since is None
    assert found.nodes[0].words == (
        "no connections left (as of 3 min ago); what is left now is not known, as its worker is silent"
    )


def test_a_kernel_that_cannot_count_says_why(
    site: Site, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> Loads:
        raise Rejected("conntrack said: no.")

    drain(site)
    monkeypatch.setattr(site.kernels["lb1"], "count_open", fail)
    settle(worker)
    assert words_of(site, worker)["lb1"] == "could not count: conntrack said: no."


def test_what_was_counted_is_gone_once_nothing_drains_any_more(site: Site, worker: Worker) -> None:
    drain(site)
    settle(worker)
    assert worker.node.leaving
    drain(site, BackendState.ENABLED)
    settle(worker)
    assert (worker.node.leaving, worker.node.leaving_at) == ({}, None)
    assert leaving_of_node(node=worker.node) == ()
