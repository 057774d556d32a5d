"""Sends to one service after the other: its clients, the same ones again, the node itself, a backend."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from ipaddress import ip_address
from itertools import cycle, groupby, islice

from balancer.domain.types import (
    Address,
    Family,
    PersistenceMode,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
)
from balancer.lab.client import REFUSED
from balancer.lab.crowd import routes_to
from balancer.lab.judge import slots_of
from balancer.lab.namespaces import run_ip
from balancer.lab.places import Place, list_own_places, list_places, spread, thin_out
from balancer.lab.sample import Fit
from balancer.lab.side import side_door
from balancer.lab.topology import Lab
from balancer.lab.traffic import DEFAULT_SOURCES, list_sources, visit
from balancer.lab.visit import Counts, Visit, count_visits, read_visit
from balancer.ruleset.service import prefix_of

Shares = Mapping[str, Fraction]
_Way = tuple[str, Place]
"""Source and place."""
_BATCHES = (16, 400)
"""The first at each interface and every further one: where a connection stays unanswered, the others would
only take time."""
_BATCH_FORGETFUL, _FORGETFUL_SECONDS = 64, 10
_MARGIN_SECONDS = 0.3
"""A client that comes again must do so while it is certainly known."""
_AGAIN_MAX = 400
_FROM_NODE = 4
_CONCURRENCY = {Protocol.TCP: 16, Protocol.UDP: 64}
_TIMEOUT_SECONDS = 2.0
_GRACE_SECONDS = 10.0
"""For clients that were begun just before the time was over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """Connections that are no ordinary client's; shares are not measured with them."""

    who: str
    counts: Counts
    service: Service
    """With the source NAT that is promised to them."""


@dataclass(slots=True, kw_only=True)
class Tour:
    """All that was sent to a service."""

    places: tuple[Place, ...]
    planned: int
    """Connections of clients; less than was wanted where there are not as many different clients."""
    visits: list[Visit] = field(default_factory=list)
    again: list[tuple[Visit, Visit]] = field(default_factory=list)
    """A client's first visit, and a later one of its own or of a client that is kept with it."""
    asides: list[Aside] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def counts(self) -> Counts:
        return count_visits(self.visits, slowest=self.slowest)

    @property
    def unanswered(self) -> bool:
        return any(map(_is_unanswered, self.visits))


class Visitor:
    def __init__(
        self, *, lab: Lab, fit: Fit, seconds_left: Callable[[], float], halt: Callable[[], None]
    ) -> None:
        """`halt` is called before anything is sent, and raises to end it all."""
        self._lab, self._fit = lab, fit
        self._seconds_left, self._halt = seconds_left, halt
        self._of_each_part = cache(lambda family, prefix: fit.crowds[family].of_each_part(prefix=prefix))

    def tour(self, service: Service, *, shares: Shares, count: int) -> Tour:
        """As many visits of clients as that, less where one is not answered or where the time is over."""
        places = list_places(service, own=lambda interface: self.own(service.family, interface))
        sources = self._choose_sources(service, count=count)
        tour = Tour(places=places, planned=len(sources))
        plan = list(zip(sources, spread(places, count=len(sources)), strict=True))
        for interface, ways in groupby(plan, key=lambda way: way[1].interface):
            self._lead_clients(service, interface=interface)
            if not self._send_clients(service, shares, tour, list(ways)):
                return tour
        if len(tour.visits) == tour.planned:
            self._send_asides(service, shares, tour)
        return tour

    def own(self, family: Family, interface: str) -> Address:
        """The balancer's."""
        return self._lab.address(balancer=self._fit.balancer.name, interface=interface, family=family)

    def _choose_sources(self, service: Service, *, count: int) -> list[str]:
        """Where a client's address decides, each is another one to the rules."""
        persistent = service.persistence.mode is not PersistenceMode.NONE
        if service.scheduler is not Scheduler.SOURCE_HASH and not persistent:
            few = list_sources(lab=self._lab, count=DEFAULT_SOURCES, family=service.family)
            return list(islice(cycle(few), count))
        crowd, prefix = self._fit.crowds[service.family], prefix_of(service)
        if service.scheduler is Scheduler.SOURCE_HASH:
            clients = list(thin_out(self._of_each_part(service.family, prefix), count=count))
        else:
            clients = list(islice(crowd.apart(prefix=prefix), count))
            if len(clients) < count and service.usable_backends:
                clients = clients[: _whole(len(clients), cycle=slots_of(service))]
        also = [crowd.neighbour(client, prefix=prefix) for client in clients] if persistent else []
        self._batch(self._lab.topology.client, routes_to([*clients, *also]))
        return [str(client) for client in clients]

    def _send_clients(self, service: Service, shares: Shares, tour: Tour, ways: list[_Way]) -> bool:
        """Of one interface; whether it makes sense to go on."""
        persistent = service.persistence.mode is not PersistenceMode.NONE and shares
        forgetful = persistent and service.persistence.timeout <= _FORGETFUL_SECONDS
        for batch in _batches(ways, most=_BATCH_FORGETFUL if forgetful else _BATCHES[1]):
            if tour.visits and self._seconds_left() <= 0:
                return False
            begun = time.monotonic()
            counts = self._send(service, shares, batch)
            tour.visits += counts.visits
            tour.slowest = max(tour.slowest, counts.slowest)
            if tour.unanswered:
                return False
            if persistent and len(tour.again) < _AGAIN_MAX:
                again = self._send_again(service, shares, tour, counts, begun=begun)
                if any(map(_is_unanswered, again)):
                    return False
        return True

    def _send_again(
        self, service: Service, shares: Shares, tour: Tour, counts: Counts, *, begun: float
    ) -> tuple[Visit, ...]:
        """Each client comes to another place of the interface, or another one of its network does."""
        crowd, prefix = self._fit.crowds[service.family], prefix_of(service)
        known = [visit for visit in counts.visits if visit.endpoint in shares]
        here = [place for place in tour.places if known and place.interface == known[0].place.interface]
        ways = [
            (
                str(crowd.neighbour(ip_address(visit.source), prefix=prefix)),
                here[(here.index(visit.place) + 1) % len(here)],
            )
            for visit in known
        ]
        again = self._send(service, shares, ways).visits if ways else ()
        if time.monotonic() - begun >= service.persistence.timeout - _MARGIN_SECONDS:
            return ()
        tour.again += zip(known, again, strict=True)
        return again

    def _send_asides(self, service: Service, shares: Shares, tour: Tour) -> None:
        if service.from_node:
            # A program that does not choose its address gets the one that it speaks to.
            places = spread(list_own_places(tour.places), count=_FROM_NODE)
            ways = [(str(place.address), place) for place in places]
            counts = self._send(service, shares, ways, machine=self._fit.balancer.name)
            tour.asides.append(Aside(who="the node itself", counts=counts, service=service))
        if service.source_nat.hairpin and service.usable_backends:
            self._send_hairpin(service, shares, tour)

    def _send_hairpin(self, service: Service, shares: Shares, tour: Tour) -> None:
        place, client = tour.places[0], str(service.usable_backends[0].address)
        balancer = self._fit.balancer.name
        with side_door(lab=self._lab, interface=place.interface, balancer=balancer, served=[place.address]):
            counts = self._send(service, shares, [(client, place)], machine="backends")
        masqueraded = replace(service, source_nat=SourceNat())
        who = f"the backend {client}, which uses the service itself"
        tour.asides.append(Aside(who=who, counts=counts, service=masqueraded))

    def _send(
        self, service: Service, shares: Shares, ways: Sequence[_Way], *, machine: str = "client"
    ) -> Counts:
        self._halt()
        report = visit(
            lab=self._lab,
            protocol=service.protocol,
            ways=[(source, place.address, place.port) for source, place in ways],
            machine=machine,
            concurrency=_CONCURRENCY[service.protocol],
            timeout=_TIMEOUT_SECONDS,
            within=_GRACE_SECONDS + max(0.0, self._seconds_left()),
        )
        visits = [
            read_visit(outcome, service=service, shares=shares, source=source, place=place)
            for outcome, (source, place) in zip(report.outcomes, ways, strict=True)
        ]
        return count_visits(visits, slowest=report.slowest)

    def _lead_clients(self, service: Service, *, interface: str) -> None:
        """An address may be served on several interfaces; clients come in by the one that is due."""
        way = self.own(service.family, interface)
        routes = [f"route replace {one}/{one.max_prefixlen} via {way}" for one in service.addresses]
        self._batch(self._lab.topology.client, routes)

    def _batch(self, namespace: str, lines: Sequence[str]) -> None:
        if lines:
            run_ip(arguments=["-n", namespace, "-batch", "-"], text="".join(f"{line}\n" for line in lines))


def _is_unanswered(visit: Visit) -> bool:
    return visit.backend is None and visit.word != REFUSED


def _whole(number: int, *, cycle: int) -> int:
    """Whole cycles where there is one at least."""
    return number // cycle * cycle if number >= cycle else number


def _batches(ways: list[_Way], *, most: int) -> Iterator[list[_Way]]:
    start, size = 0, _BATCHES[0]
    while start < len(ways):
        yield ways[start : start + size]
        start, size = start + size, most
