"""Round robin on iptables-legacy while another service is applied again and again.

Every commit starts the kernel's nth counters anew, so each lets every chain that counts begin elsewhere
(balancer/kernel/turning.py). All connections are judged, and one from each interval between commits, which is
independent of the others.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from threading import Event

import pytest
from scipy.stats import chisquare

from balancer.domain.types import Address, Document
from balancer.kernel import node
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.kernel.machine import Namespace, document, service
from tests.kernel.many import PORT, Crowd

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
FEW = 50
SIZES = (3, 10, 50, 250) if CAMPAIGN else (FEW,)
DRIVERS = tuple(DriverName) if CAMPAIGN else (DriverName.IPTABLES_RESTORE,)
SECONDS = 100.0 if CAMPAIGN else 2.0
APPLIES_A_SECOND = 10
FLOWS_A_SECOND = 250
FAIR = 0.001 if CAMPAIGN else 1e-6
"""CI runs often, and must not fail by chance."""
BIASED = 1e-9


@pytest.fixture
def crowd(namespace: Namespace) -> Iterator[Crowd]:
    built = Crowd(namespace)
    yield built
    built.close()


@dataclass(slots=True)
class Traffic:
    """One flow after the other at a steady rate; when each was sent, and which backend got it."""

    crowd: Crowd
    found: list[tuple[float, Address]] = field(default_factory=list)
    done: Event = field(default_factory=Event)

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


def churn(kernel: NodeKernel, crowd: Crowd, *, backends: int, seconds: float) -> Outcome:
    documents = [with_another(crowd, backends=backends, port=port) for port in (80, 81)]
    apply(kernel, documents[1])
    traffic = Traffic(crowd)
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(traffic.run)
        try:
            commits = apply_in_turn(kernel, documents, seconds=seconds)
        finally:
            traffic.done.set()
        running.result()
    return Outcome(commits, traffic.found)


def apply_in_turn(
    kernel: NodeKernel, documents: list[Document], *, seconds: float
) -> list[tuple[float, float]]:
    commits: list[tuple[float, float]] = []
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        begun = time.monotonic()
        apply(kernel, documents[len(commits) % 2])
        commits.append((begun, time.monotonic()))
        # Even if applies take longer, there is time in between for the flow that counts.
        time.sleep(max(0.02, begun + 1 / APPLIES_A_SECOND - time.monotonic()))
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


def p_value(*, counts: Mapping[Address, int], shares: Mapping[Address, Fraction]) -> float:
    """The chance that counts of independent draws are at least so far from their exact shares."""
    assert set(counts) <= set(shares), "somebody was counted who has no share"
    total = sum(counts.values())
    expected = [float(share * total) for share in shares.values()]
    return float(chisquare([counts.get(one, 0) for one in shares], expected).pvalue)


@pytest.mark.parametrize("backends", SIZES)
@pytest.mark.parametrize("driver", DRIVERS)
def test_round_robin_favours_nobody_while_another_service_is_applied_ten_times_a_second(
    crowd: Crowd, driver: DriverName, backends: int
) -> None:
    kernel = NodeKernel(flavour=Flavour.LEGACY, driver=driver)
    shares = shares_of(crowd, backends=backends)
    outcome = churn(kernel, crowd, backends=backends, seconds=SECONDS)
    chosen = outcome.one_of_each_interval
    p, of_all = p_value(counts=chosen, shares=shares), p_value(counts=outcome.all, shares=shares)
    print(
        f"\n{driver}, {backends} backends: {len(outcome.commits)} applies, {outcome.rate:.1f} a second;"
        f" {len(outcome.found)} flows, all of them: p = {of_all:.3g};"
        f" one of each interval: {chosen.total()}, p = {p:.3g}"
    )
    assert chosen.total() >= len(outcome.commits) // 2
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
    p = p_value(counts=counts, shares=shares_of(crowd, backends=FEW))
    assert p > BIASED if turning else p < BIASED
