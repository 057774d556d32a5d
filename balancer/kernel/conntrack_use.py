"""How far the kernel's memory of connections is used, and the source ports towards each backend."""

import re
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

from balancer.domain.types import Family, Protocol, format_endpoint
from balancer.kernel.base import ConntrackUse, KernelError, PortUse
from balancer.kernel.tools import read_lines
from balancer.ruleset import marks

AVAILABLE = 65535 - 1024 + 1
"""Ports that source NAT chooses from for a client's port above 1023 (nf_nat_core.c)."""
WORTH_COUNTING = 10_000
"""With fewer entries than this no backend's ports can be scarce, and the list is not read."""
BUSIEST = 3

_STAT = Path("/proc/thread-self/net/stat/nf_conntrack")
_SYSCTL = Path("/proc/sys/net/netfilter")
_REPLY = re.compile(r"src=\S+ dst=\S+ sport=\d+ dport=\d+ .*?src=(\S+) dst=(\S+) sport=(\d+) dport=\d+")


def read_use(*, worth_counting: int = WORTH_COUNTING) -> ConntrackUse:
    """Of the namespace of the calling thread. Never raises: what cannot be read is left at zero."""
    entries = _number("nf_conntrack_count")
    counters = _counters()
    busiest: tuple[PortUse, ...] = ()
    if entries >= worth_counting:
        try:
            busiest = count_ports()
        except KernelError:
            busiest = ()
    return ConntrackUse(
        entries=entries,
        limit=_number("nf_conntrack_max"),
        insert_failed=counters.get("insert_failed", 0),
        dropped=counters.get("drop", 0),
        early_dropped=counters.get("early_drop", 0),
        busiest=busiest,
    )


def count_ports() -> tuple[PortUse, ...]:
    """The fullest of all (protocol, source, backend), of both families. Raises KernelError."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for family in Family:
        for protocol in (Protocol.TCP, Protocol.UDP):
            for line in read_lines(_listing(family, protocol)):
                found = _REPLY.search(line)
                if found is not None:
                    counts[protocol.value, found[2], found[1], found[3]] += 1
    return tuple(
        PortUse(
            protocol=protocol,
            source=source,
            backend=format_endpoint(address=ip_address(backend), port=int(port)),
            used=used,
            available=AVAILABLE,
        )
        for (protocol, source, backend, port), used in counts.most_common(BUSIEST)
    )


def _listing(family: Family, protocol: Protocol) -> list[str]:
    """The command that lists what we balance."""
    mark = f"{marks.BALANCED:#x}/{marks.BALANCED:#x}"
    return ["conntrack", "-L", "-f", family.value, "-p", protocol.value, "--mark", mark]


def _counters() -> dict[str, int]:
    """The columns of nf_conntrack's statistics, added up over the processors."""
    try:
        head, *rows = _STAT.read_text().splitlines()
    except (OSError, ValueError):
        return {}
    totals: Counter[str] = Counter()
    for row in rows:
        totals.update(dict(zip(head.split(), (int(cell, 16) for cell in row.split()), strict=False)))
    return dict(totals)


def _number(name: str) -> int:
    try:
        return int((_SYSCTL / name).read_text())
    except (OSError, ValueError):
        return 0
