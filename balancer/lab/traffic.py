"""Bounded traffic from the lab's clients, and what became of it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from balancer.domain.types import Address, Family
from balancer.lab.client import REFUSED, TIMED_OUT
from balancer.lab.errors import LabError
from balancer.lab.topology import Lab

DEFAULT_SOURCES = 16
_SPARE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    sent: int
    answered: Mapping[str, int]
    """Backend (`10.0.0.3:80`) -> connections it answered, sorted by backend."""
    peers: Mapping[str, int]
    """Source address that the backends saw -> connections."""
    lost: Mapping[str, int]
    """`refused`, `timed out` or the system's own words -> connections."""
    slowest: float
    """Seconds."""
    seconds: float

    @property
    def refused(self) -> int:
        return self.lost.get(REFUSED, 0)

    @property
    def timed_out(self) -> int:
        return self.lost.get(TIMED_OUT, 0)

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())


def open_connections(
    *,
    lab: Lab,
    address: Address | str,
    port: int,
    count: int,
    concurrency: int = 1,
    timeout: float = 2.0,
    sources: Sequence[str] | None = None,
    within: float | None = None,
) -> Report:
    """`count` TCP connections from the client namespace; one after the other unless told otherwise.

    No two connections or flows in the life of a lab share a source address and port. LabError where the
    clients do not end within that many seconds (left out: as long as so many timeouts take).
    """
    return _run_clients(
        lab=lab, kind="tcp", address=address, port=port, count=count,
        concurrency=concurrency, timeout=timeout, sources=sources, within=within,
    )  # fmt: skip


def send_datagrams(
    *,
    lab: Lab,
    address: Address | str,
    port: int,
    count: int,
    concurrency: int = 64,
    timeout: float = 1.0,
    sources: Sequence[str] | None = None,
    within: float | None = None,
) -> Report:
    """`count` UDP flows of one datagram; sources and `within` as in `open_connections`."""
    return _run_clients(
        lab=lab, kind="udp", address=address, port=port, count=count,
        concurrency=concurrency, timeout=timeout, sources=sources, within=within,
    )  # fmt: skip


class BackgroundTraffic:
    """A context manager: a steady trickle of TCP connections to each target in turn, counted in a file.

    At most one connection is open at a time. It ends with the context, with the lab, or with the caller.
    """

    def __init__(
        self,
        *,
        lab: Lab,
        targets: Sequence[tuple[Address | str, int]],
        status_path: Path,
        per_second: float = 20.0,
        timeout: float = 1.0,
    ) -> None:
        self._lab = lab
        self._order = {
            "kind": "background",
            "targets": [(str(address), port) for address, port in targets],
            # Not those of the counted connections, whose ports must be nobody else's.
            "sources": list_sources(lab=lab, count=2 * DEFAULT_SOURCES)[DEFAULT_SOURCES:],
            "per_second": per_second,
            "timeout": timeout,
            "status": str(status_path),
        }
        self._status_path = status_path
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = self._lab.start_module(machine="client", module="client")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._order) + "\n")
        self._process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.communicate()

    def read_status(self) -> dict[str, Any] | None:
        """`{"updated": epoch seconds, "targets": {"10.0.0.1:80": {"answered": …, "lost": …}}}`; None before
        the first half second is over."""
        try:
            status: dict[str, Any] = json.loads(self._status_path.read_text())
        except FileNotFoundError:
            return None
        return status


def list_sources(*, lab: Lab, count: int, family: Family = Family.IPV4) -> list[str]:
    """The first `count` client addresses."""
    return [str(address) for address in islice(lab.topology.clients_of(family).hosts(), count)]


def _run_clients(
    *,
    lab: Lab,
    kind: str,
    address: Address | str,
    port: int,
    count: int,
    concurrency: int,
    timeout: float,
    sources: Sequence[str] | None,
    within: float | None,
) -> Report:
    family = Family.IPV6 if ":" in str(address) else Family.IPV4
    order = {
        "kind": kind,
        "address": str(address),
        "port": port,
        "count": count,
        "first": lab.reserve_flows(count=count),
        "sources": list(sources) if sources else list_sources(lab=lab, count=DEFAULT_SOURCES, family=family),
        "timeout": timeout,
        "concurrency": concurrency,
    }
    limit = _SPARE_SECONDS + count * timeout / concurrency if within is None else within
    process = lab.start_module(machine="client", module="client")
    try:
        output, complaint = process.communicate(json.dumps(order) + "\n", timeout=limit)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise LabError(
            f"The lab's clients had not ended after {limit:.0f} s and were stopped. The machine may be"
            " overloaded; try again."
        ) from error
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise LabError(f"The clients failed: {complaint.strip()}")
    return _read_report(json.loads(output), sent=count)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _read_report(data: dict[str, Any], *, sent: int) -> Report:
    report = Report(
        sent=sent,
        answered=dict(sorted(data["answered"].items())),
        peers=dict(sorted(data["peers"].items())),
        lost=dict(sorted(data["lost"].items())),
        slowest=data["slowest"],
        seconds=data["seconds"],
    )
    assert sum(report.answered.values()) + report.lost_total == sent
    return report
