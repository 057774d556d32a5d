"""Packets and bytes of balanced connections, from what the kernel's table holds and what has left it. Pure.

An entry counts until it goes, and says its sums once more as it goes. What was carried since the last look is
therefore what went, and what is there now, less what was there then.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from balancer.domain.types import Family, Protocol, Service, format_endpoint
from balancer.kernel.counter_table import Place
from balancer.kernel.owning import PortIndex, nearest
from balancer.ruleset.compile import MARK_BALANCED

_ENTRY = re.compile(
    r".*?(tcp|udp|sctp) +\d+ (?:\d+ )?(?:([A-Z_0-9]+) )?"
    r"src=\S+ dst=(\S+) sport=\d+ dport=(\d+) packets=(\d+) bytes=(\d+) "
    r"(?:\[[A-Z]+\] )?src=(\S+) dst=\S+ sport=(\d+) dport=\d+ packets=(\d+) bytes=(\d+)"
    r"(?:.*? mark=(\d+))?"
)
"""Protocol, state, original destination and port, packets and bytes there; who answers, packets and bytes
back; mark."""
_ALIVE = {None, "ESTABLISHED"}
"""Of UDP, which knows no states, every entry."""

Flow = tuple[str, str, str, str, str]
"""Protocol, original destination and port, who answers and from which port, as conntrack(8) spells them."""


@dataclass(slots=True)
class Carried:
    packets: int = 0
    bytes: int = 0
    current: int = 0
    """Connections that are established now."""

    def add(self, other: "Carried") -> None:
        self.packets += other.packets
        self.bytes += other.bytes
        self.current += other.current


def read_entry(line: str) -> tuple[Flow, Carried] | None:
    """One line of `conntrack -L`; None of what is not balanced, or is not accounted."""
    found = _ENTRY.match(line)
    if found is None:
        return None
    protocol, state, address, port, packets, size, answers, back, more, rest, mark = found.groups()
    if not int(mark or 0) & MARK_BALANCED or (address, port) == (answers, back):
        return None
    carried = Carried(int(packets) + int(more), int(size) + int(rest), int(state in _ALIVE))
    return (protocol, address, port, answers, back), carried


def add_lines(lines: Iterable[str]) -> dict[Flow, Carried]:
    found: dict[Flow, Carried] = {}
    for line in lines:
        entry = read_entry(line)
        if entry is not None:
            found.setdefault(entry[0], Carried()).add(entry[1])
    return found


def join(one: dict[Flow, Carried], other: Mapping[Flow, Carried]) -> dict[Flow, Carried]:
    """`one`, with the other added to it."""
    for flow, carried in other.items():
        one.setdefault(flow, Carried()).add(carried)
    return one


NONE: Mapping[Flow, Carried] = {}
NOTHING = Carried()
Sums = tuple[int, int]
"""Packets and bytes."""


@dataclass(slots=True)
class FlowCounts:
    """From one look to the next. The first look is only where counting begins."""

    begun: bool = False
    gone: dict[Flow, Carried] = field(default_factory=dict)
    """Sums of all that has left the table."""
    shown: dict[Flow, Sums] = field(default_factory=dict)
    """What was told of so far, together with what was there when counting began."""
    missing: dict[Flow, Sums] = field(default_factory=dict)
    """What was told of, and was neither there any more at the last look nor heard of as it went."""
    unheard: int = 0
    """Packets of what went without being heard of, as the last look found out."""

    def see(
        self,
        live: Mapping[Flow, Carried],
        gone: Mapping[Flow, Carried],
        *,
        later: Mapping[Flow, Carried] = NONE,
    ) -> dict[Flow, Sums]:
        """What was carried since the last look.

        `gone` was heard of before `live` was read, and `later` behind it: that comes with the next look.
        """
        join(self.gone, gone)
        since: dict[Flow, Sums] = {}
        missing, self.missing, self.unheard = self.missing, {}, 0
        for flow in {*live, *self.gone, *self.shown}:
            now, before = self._sum(flow, live), self.shown.get(flow, (0, 0))
            if self.begun:
                since[flow] = max(0, now[0] - before[0]), max(0, now[1] - before[1])
            self.shown[flow] = self._settle(
                flow, now=now, before=before, later=later.get(flow, NOTHING), missed=missing.get(flow, (0, 0))
            )
            if flow not in live and flow not in gone and self.shown[flow] == now:
                # All of it was told of: it begins at nothing when it comes again.
                self.gone.pop(flow, None)
                self.shown.pop(flow, None)
        self.begun = True
        return {flow: found for flow, found in since.items() if found != (0, 0)}

    def _settle(self, flow: Flow, *, now: Sums, before: Sums, later: Carried, missed: Sums) -> Sums:
        """What has been told of now. What two looks miss does not come any more: waiting for it would leave
        as much again untold. One look alone may have missed it while the table changed."""
        packets = max(0, before[0] - now[0] - later.packets)
        size = max(0, before[1] - now[1] - later.bytes)
        lost = min(packets, missed[0]), min(size, missed[1])
        if (packets, size) != lost:
            self.missing[flow] = packets - lost[0], size - lost[1]
        self.unheard += lost[0]
        return max(now[0], before[0] - lost[0]), max(now[1], before[1] - lost[1])

    def _sum(self, flow: Flow, live: Mapping[Flow, Carried]) -> Sums:
        there, went = live.get(flow), self.gone.get(flow)
        return (
            (there.packets if there else 0) + (went.packets if went else 0),
            (there.bytes if there else 0) + (went.bytes if went else 0),
        )


class Owners:
    """Whose a flow is. The interface is not in an entry: what two services could own is the first one's."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._index = PortIndex(services)
        self._known: dict[Flow, Place | None] = {}

    def of(self, flow: Flow) -> Place | None:
        if flow not in self._known:
            self._known[flow] = self._find(flow)
        return self._known[flow]

    def _find(self, flow: Flow) -> Place | None:
        protocol, address, port, answers, back = flow
        wanted, answerer = ip_address(address), ip_address(answers)
        family = Family.IPV6 if wanted.version == 6 else Family.IPV4
        fallback = None
        candidates = (s for s in self._index.at(Protocol(protocol), int(port)) if s.family is family)
        for service in nearest([s for s in candidates if not s.addresses or wanted in s.addresses]):
            # Back to where `port` itself would have been sent: the endpoint that names the backend.
            endpoint = format_endpoint(address=answerer, port=int(back) - int(port) + service.port)
            if any(backend.endpoint == endpoint for backend in service.backends):
                return service.name, endpoint
            fallback = fallback or (service.name, endpoint)
        return fallback


def by_place(
    live: Mapping[Flow, Carried], since: Mapping[Flow, tuple[int, int]], *, owners: Owners
) -> dict[Place, Carried]:
    """Packets and bytes since the last look, and connections now, of each backend that has any."""
    found: dict[Place, Carried] = {}
    for flow, carried in live.items():
        place = owners.of(flow)
        if place is not None and carried.current:
            found.setdefault(place, Carried()).current += carried.current
    for flow, (packets, size) in since.items():
        place = owners.of(flow)
        if place is not None:
            found.setdefault(place, Carried()).add(Carried(packets, size))
    return found
