"""Applies of services that a client does not use are nothing to it, whatever its load."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from balancer.domain.types import Document
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.kernel.behaviours.lab import wait_for
from tests.kernel.machine import Namespace, document, service
from tests.kernel.many import Crowd
from tests.stopwatch import Stopwatch

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
APPLIES = 200 if CAMPAIGN else 15
A_SECOND = 700
AT_LEAST = 500
FEW = 10
PORT = 80
BACKENDS = 4
KINDS = [(flavour, DriverName.IPTABLES_RESTORE) for flavour in Flavour]
KINDS += [(Flavour.LEGACY, DriverName.PYTHON_IPTABLES)] if CAMPAIGN else []
_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(namespace: Namespace, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`tests.kernel.load` in a namespace; it ends with its standard input."""
    command = [sys.executable, "-m", "tests.kernel.load", *arguments]
    with namespace.entered():
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
    with process:
        try:
            yield process
        finally:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def tcp_counters(namespace: Namespace) -> dict[str, int]:
    with namespace.entered():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Tcp:"))
    return dict(zip(names, map(int, values), strict=True))


def resets_sent(namespace: Namespace) -> int:
    return tcp_counters(namespace)["OutRsts"]


def resets(crowd: Crowd, balancer: Namespace) -> dict[str, int]:
    """Connections that were reset or did not come about, and resets that were sent, by whom.

    Outside a campaign not those that the client sent: on a very busy machine there were some, in one run
    without any apply too (1 in 119,000 connections); on a quiet one never. One that met a connection in use
    would count as EstabResets or AttemptFails where it arrives.
    """
    machines = {"balancer": balancer, "client": crowd.client, "backend": crowd.backend}
    return {
        f"{machine} {name}": tcp_counters(namespace)[name]
        for machine, namespace in machines.items()
        for name in ("EstabResets", "OutRsts", "AttemptFails")
        if CAMPAIGN or (machine, name) != ("client", "OutRsts")
    }


def beside(crowd: Crowd, number: int) -> Document:
    """The service under load, and a few others of which one comes, one changes and one goes each time."""
    web = service(
        address=crowd.plan.service,
        port=PORT,
        backends=[{"address": str(crowd.plan.backend(i))} for i in range(BACKENDS)],
    )
    others = (service(f"other{i}", port=1000 + i + number % 2) for i in range(number, number + 3))
    return document(web, *others)


def apply(kernel: NodeKernel, one: Document) -> None:
    assert "nat" in kernel.sync(ruleset=compile_document(one), document=one).tables_committed


@dataclass(slots=True)
class Outcome:
    seconds: float = 0.0
    """That the applies took."""
    stalled: float = 0.0
    """Of those that the load went on, how many the machine was too busy with other things."""
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return float(self.report["answered"] / self.report["seconds"])

    @property
    def is_steady(self) -> bool:
        """Whether there were at least AT_LEAST a second, in those that the machine had for it."""
        return bool(self.report["answered"] >= AT_LEAST * (self.report["seconds"] - self.stalled))


@contextmanager
def load(crowd: Crowd, *, takes: float = 0) -> Iterator[Outcome]:
    """What is done inside is done under load; afterwards the outcome says what became of the connections.

    Each of them lasts so many seconds.
    """
    outcome = Outcome()
    aim = (crowd.plan.service, str(PORT), str(A_SECOND), str(crowd.plan.client(1)))
    with running(crowd.backend, "server", str(PORT), str(takes)) as server:
        wait_until_ready(server)
        with running(crowd.client, "client", *aim) as client:
            wait_until_ready(client)
            watch = Stopwatch()
            yield outcome
            outcome.seconds = watch.seconds
            outcome.report = json.loads(client.communicate()[0])
            outcome.stalled = watch.stalled


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind), indirect=True)
def test_no_connection_fails_and_none_is_reset_while_other_services_are_applied(
    crowd: Crowd, namespace: Namespace, kernel: NodeKernel
) -> None:
    apply(kernel, beside(crowd, 0))
    before = resets(crowd, namespace)
    with load(crowd) as outcome:
        for number in range(1, APPLIES + 1):
            apply(kernel, beside(crowd, number))
    print(
        f"\n{APPLIES} applies in {outcome.seconds:.1f} s; {outcome.report['answered']} connections,"
        f" {outcome.rate:.0f} a second; failed {outcome.report['failed']}, {resets(crowd, namespace)}"
    )
    assert outcome.report["failed"] == {}
    assert resets(crowd, namespace) == before
    assert outcome.is_steady


def test_a_service_that_goes_for_a_moment_is_noticed(crowd: Crowd, namespace: Namespace) -> None:
    """The counts above are worth something only if they count."""
    kernel = NodeKernel(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE)
    apply(kernel, beside(crowd, 0))
    before = resets(crowd, namespace)
    with load(crowd) as outcome:
        apply(kernel, document(*(service(f"other{i}", port=1000 + i) for i in range(3))))
        assert wait_for(lambda: resets_sent(namespace) >= before["balancer OutRsts"] + FEW)
        apply(kernel, beside(crowd, 0))
    failed = outcome.report["failed"]
    assert set(failed) == {"ECONNREFUSED"}
    assert failed["ECONNREFUSED"] >= FEW
    sent = resets(crowd, namespace)["balancer OutRsts"] - before["balancer OutRsts"]
    assert sent >= failed["ECONNREFUSED"]
