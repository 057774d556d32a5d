"""A way into an interface of this machine that a client's packet would take, made for a moment.

::

    child's namespace             this namespace
    [probe0 198.19.255.254] ──── [lbprobe1a2b3c4d] ingress: mirred redirect ──> eth0, as if received there

The rules look at packets that come in (`nat PREROUTING -i eth0`), which connections of the node itself never
do. tc-mirred(8) hands the packets of the pair's end over to the interface's own ingress; answers follow a
route to the one source address. The interface itself gets nothing: no qdisc, no address, no rule.
"""

import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from balancer.domain.types import Address, Family
from balancer.probes.base import ProbeError
from balancer.probes.connect import Attempt, Tally
from balancer.probes.machine import run

_HERE, _THERE = "02:00:00:00:00:02", "02:00:00:00:00:01"
"""Of the pair's two ends; locally administered, and seen by nobody else."""
_START_SECONDS = 3.0
PREFIX = "lbprobe"
_PROTOCOLS = {Family.IPV4: "ip", Family.IPV6: "ipv6"}
"""As tc(8) calls them."""


Entrance = tuple[str, Family]
"""An interface, and the family that comes in by it."""


class Way:
    """A context manager: one pair of links for each entrance. Raises ProbeError where it cannot be made.

    All of it lives as long as the child does, which dies with this process: the end of a pair goes with the
    other one's namespace, and takes its route, its neighbour and its filter along.
    """

    def __init__(self, *, sources: Mapping[Entrance, Address]) -> None:
        """The address that the clients have who come in there; all of them different."""
        self._sources = dict(sources)
        token = secrets.token_hex(3)
        self._links = {name: f"{PREFIX}{token}{number:02x}" for number, name in enumerate(self._sources)}
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._child = _start_child()
            self._lay(self._child.pid)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self, *, attempts: Mapping[Entrance, Sequence[Attempt]], seconds: float) -> dict[str, Tally]:
        """Attempts to come in by each. What became of each key."""
        child = self._child
        assert child is not None
        devices = {name: f"probe{number}" for number, name in enumerate(self._sources)}
        sent = [
            asdict(attempt) | {"source": str(self._sources[name]), "device": devices[name]}
            for name, part in attempts.items()
            for attempt in part
        ]
        setup = [line for name, device in devices.items() for line in self._far_end(name, device)]
        _write(child, {"setup": setup, "attempts": sent, "seconds": seconds})
        answer = json.loads(_read_line(child, seconds=seconds + _START_SECONDS))
        if "error" in answer:
            raise ProbeError(f"The probe's links could not be set up: ip said: {answer['error']}.")
        return {key: Tally(**tally) for key, tally in answer["tallies"].items()}

    def close(self) -> None:
        """Nothing is left when this returns."""
        child, self._child = self._child, None
        if child is None:
            return
        # By name and at once: the kernel takes a dead namespace apart a moment later.
        for link in self._links.values():
            run(["ip", "link", "delete", link], check=False)
        child.kill()
        child.communicate()

    def _lay(self, pid: int) -> None:
        links, filters = [], []
        for number, (entrance, link) in enumerate(self._links.items()):
            source = self._sources[entrance]
            links += [
                f"link add {link} address {_HERE} type veth"
                f" peer name probe{number} address {_THERE} netns {pid}",
                f"link set {link} up addrgenmode none",
                # Both neighbours are told: a question of ARP would be handed over to the interface as well.
                f"neighbour add {source} lladdr {_THERE} dev {link} nud permanent",
                f"route add {source}/{source.max_prefixlen} dev {link}",
            ]
            filters += [
                f"qdisc add dev {link} clsact",
                # u32 with an empty mask is every packet; older kernels and small ones lack matchall.
                f"filter add dev {link} ingress protocol {_PROTOCOLS[entrance[1]]} u32 match u32 0 0"
                f" action mirred ingress redirect dev {entrance[0]}",
            ]
        run(["ip", "-batch", "-"], lines=links)
        run(["tc", "-batch", "-"], lines=filters)

    def _far_end(self, entrance: Entrance, device: str) -> list[str]:
        source, metric = self._sources[entrance], 1 + list(self._sources).index(entrance)
        # Any neighbour but itself will do: it is never asked, and its packets come out of the other end.
        gateway = source - 1
        # nodad: nobody else is on the link, so that nothing has to wait for who else has the address.
        nodad = " nodad" if source.version == 6 else ""
        return [
            f"link set {device} up",
            f"address add {source}/{source.max_prefixlen} dev {device}{nodad}",
            f"neighbour add {gateway} lladdr {_HERE} dev {device} nud permanent",
            f"route add default via {gateway} dev {device} onlink metric {metric}",
        ]


def _start_child() -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        # -S: without site-packages it starts in 20 ms.
        [sys.executable, "-S", "-m", "balancer.probes.child", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    try:
        _read_line(child, seconds=_START_SECONDS)
    except BaseException:
        child.kill()
        child.communicate()
        raise
    return child


def _write(child: subprocess.Popen[str], order: dict[str, Any]) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()
    except BrokenPipeError as error:
        raise ProbeError("The probe's process ended before it was asked. Try again.") from error


def _read_line(child: subprocess.Popen[str], *, seconds: float) -> str:
    """The child writes whole lines; ProbeError where none comes in time."""
    assert child.stdout is not None
    assert child.stderr is not None
    deadline = time.monotonic() + seconds
    ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        raise ProbeError(f"The probe's process did not answer within {seconds:.0f} seconds.")
    line = child.stdout.readline()
    if not line:
        raise ProbeError(f"The probe's process ended: {child.stderr.read().strip() or 'it was killed'}.")
    return line
