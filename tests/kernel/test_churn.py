"""Round robin on iptables-legacy while another service is applied again and again.

Every commit starts the kernel's nth counters anew, so each lets every chain that counts begin elsewhere
(balancer/kernel/turning.py). All connections are judged, and one from each interval between commits, which is
independent of the others.
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from threading import Event

import pytest

from balancer.domain.types import Address, Document
from balancer.kernel import node
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.chance import CHANCE, p_of_counts
from tests.kernel.machine import document, service
from tests.kernel.many import PORT, Crowd

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
FEW = 50
SIZES = (3, 10, 50, 250) if CAMPAIGN else (FEW,)
DRIVERS = tuple(DriverName) if CAMPAIGN else (DriverName.IPTABLES_RESTORE,)
APPLIES = 1000 if CAMPAIGN else 20
APPLIES_A_SECOND = 10
FLOWS_A_SECOND = 250
FAIR = 0.001 if CAMPAIGN else CHANCE
"""CI runs often, and must not fail by chance."""
PATIENCE = 20.0


@dataclass(slots=True)
class Traffic:
    """One flow after the other at a steady rate; when each was sent, and which backend got it."""

    crowd: Crowd
    found: list[tuple[float, Address]] = field(default_factory=list)
    done: Event = field(default_factory=Event)

    def wait_for_one(self, *, since: float) -> None:
        """Until a flow was sent after that, which a busy machine may put off."""
        while not self.found or self.found[-1][0] <= since:
            assert time.monotonic() < since + PATIENCE, "no flow was sent"
            time.sleep(0.001)

    def run(self) -> None:
        started = time.monotonic()
        while not self.done.is_set():
            now = time.monotonic()
            number = len(self.found) + 1
            self.found.append((now, self.crowd.send([number])[number]))
            self.done.wait(max(0.0, started + number / FLOWS_A_SECOND - now))


@dataclass(frozen=True, slots=True)
class Outcome:
    commits: list[tuple[float, float]]
    """When each apply began and ended."""
    found: list[tuple[float, Address]]

    @property
    def rate(self) -> float:
        return len(self.commits) / (self.commits[-1][1] - self.commits[0][0])

    @property
    def one_of_each_interval(self) -> Counter[Address]:
        chosen: Counter[Address] = Counter()
        flows = iter(self.found)
        for (_, free), (busy, _) in zip(self.commits, self.commits[1:], strict=False):
            here = next(((at, backend) for at, backend in flows if at > free), None)
            if here is None:
                break
            if here[0] < busy:
                chosen[here[1]] += 1
        return chosen

    @property
    def all(self) -> Counter[Address]:
        return Counter(backend for _, backend in self.found)


def churn(kernel: NodeKernel, crowd: Crowd, *, backends: int) -> Outcome:
    documents = [with_another(crowd, backends=backends, port=port) for port in (80, 81)]
    apply(kernel, documents[1])
    traffic = Traffic(crowd)
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(traffic.run)
        try:
            commits = apply_in_turn(kernel, documents, traffic)
        finally:
            traffic.done.set()
        running.result()
    return Outcome(commits, traffic.found)


def apply_in_turn(
    kernel: NodeKernel, documents: list[Document], traffic: Traffic
) -> list[tuple[float, float]]:
    commits: list[tuple[float, float]] = []
    while len(commits) <= APPLIES:
        begun = time.monotonic()
        apply(kernel, documents[len(commits) % 2])
        commits.append((begun, time.monotonic()))
        # Even if applies take longer, the flow that counts comes before the next one.
        traffic.wait_for_one(since=commits[-1][1])
        time.sleep(max(0.0, begun + 1 / APPLIES_A_SECOND - time.monotonic()))
    return commits


def with_another(crowd: Crowd, *, backends: int, port: int) -> Document:
    """Weights 1 to 4, and a service beside it of which only the port differs."""
    data = [{"address": str(crowd.plan.backend(i)), "weight": 1 + i % 4} for i in range(backends)]
    return document(service("dns", protocol="udp", port=PORT, backends=data), service("other", port=port))


def apply(kernel: NodeKernel, one: Document) -> None:
    receipt = kernel.sync(ruleset=compile_document(one), document=one)
    assert "nat" in receipt.tables_committed


def shares_of(crowd: Crowd, *, backends: int) -> dict[Address, Fraction]:
    weights = {crowd.plan.backend(i): 1 + i % 4 for i in range(backends)}
    return {address: Fraction(weight, sum(weights.values())) for address, weight in weights.items()}


@pytest.mark.parametrize("backends", SIZES)
@pytest.mark.parametrize("driver", DRIVERS)
def test_round_robin_favours_nobody_while_another_service_is_applied_ten_times_a_second(
    crowd: Crowd, driver: DriverName, backends: int
) -> None:
    kernel = NodeKernel(flavour=Flavour.LEGACY, driver=driver)
    shares = shares_of(crowd, backends=backends)
    outcome = churn(kernel, crowd, backends=backends)
    chosen = outcome.one_of_each_interval
    p, of_all = p_of_counts(chosen, shares), p_of_counts(outcome.all, shares)
    print(
        f"\n{driver}, {backends} backends: {len(outcome.commits)} applies, {outcome.rate:.1f} a second;"
        f" {len(outcome.found)} flows, all of them: p = {of_all:.3g};"
        f" one of each interval: {chosen.total()}, p = {p:.3g}"
    )
    assert chosen.total() == APPLIES
    assert p > FAIR
    assert of_all > FAIR


@pytest.mark.parametrize("turning", [True, False])
def test_without_another_beginning_the_first_backends_would_be_favoured(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, turning: bool
) -> None:
    """As many connections between two commits as are a small part of the cycle."""
    if not turning:
        monkeypatch.setattr(node, "go_on_elsewhere", lambda ruleset, *, flavour: lambda plan, snapshot: plan)
    kernel = NodeKernel(flavour=Flavour.LEGACY, driver=DriverName.IPTABLES_RESTORE)
    counts: Counter[Address] = Counter()
    for number in range(20):
        apply(kernel, with_another(crowd, backends=FEW, port=80 + number % 2))
        counts.update(crowd.send(range(10 * number + 1, 10 * number + 11)).values())
    p = p_of_counts(counts, shares_of(crowd, backends=FEW))
    assert p > CHANCE if turning else p < CHANCE
