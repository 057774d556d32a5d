"""A node whose backends are checked, for its tests: its worker, its kernel in memory, and what checks say."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from balancer.domain.health import Standing
from balancer.ruleset.schedulers import promised_shares
from balancer.workflow.health import record_standings
from balancer.workflow.revisions import node_rulesets
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.moving import FOUR, ONE, THREE, TWO, Balancer, Watched, carried, kernel

ALL = (ONE, TWO, THREE, FOUR)
TCP = {"kind": "tcp"}


def web(**fields: Any) -> dict[str, Any]:
    return service_data("web", **{"health": TCP, **fields})


@dataclass
class Checked(Balancer):
    """Of lb1, with a health daemon that says what a test tells it. Who waits moves the clock."""

    daemon: bool = True

    def tick(self, after: float = 5) -> None:
        if self.daemon:
            self.now += timedelta(seconds=after)
            self.say()  # the heartbeat
            after = 0
        super().tick(after)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        super().wait(seconds)

    def say(self, *down: str, up: tuple[str, ...] = (), service: str = "web", reason: str = "") -> None:
        standings = [standing(e, up=False, at=self.now, service=service, reason=reason) for e in down]
        standings += [standing(e, up=True, at=self.now, service=service, reason=reason) for e in up]
        record_standings(self.name, standings, clock=lambda: self.now)


def standing(
    endpoint: str, *, up: bool | None, at: datetime, service: str = "web", reason: str = "", warning: str = ""
) -> Standing:
    said = reason or ("connected after 1 ms" if up else "connection refused after 1 ms")
    return Standing(
        service=service,
        endpoint=endpoint,
        up=up,
        since=at,
        checked_at=at,
        reason=f"tried tcp {endpoint}, {said}",
        warning=warning,
    )


def checked_node(site: Site, *services: dict[str, Any]) -> Iterator[Checked]:
    """The services are live, and nothing was found down. For a fixture."""
    node = Checked(site)
    site.kernels["lb1"] = Watched(node)
    site.deploy(*(services or (web(),)))
    node.tick(after=0)
    kernel(node).writes.clear()
    yield node


def shares(node: Checked, name: str = "web") -> dict[str, Fraction]:
    """As the node should carry the service; the kernel must hold just that."""
    found = carried(node)
    kernel = node.site.kernels[node.name]
    assert all(kernel.compare(ruleset=r).in_sync for r in node_rulesets(found.document).values())
    row = node.node
    assert (row.carried_health, row.carried_weights) == (found.health_digest, found.weights_digest)
    return dict(promised_shares(next(s for s in found.document.services if s.name == name)))
