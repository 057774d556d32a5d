"""A rehearsal: the ruleset that would be loaded, in a lab of its own, under real connections."""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from balancer.domain.limits import HASH_SLOTS, scheduled
from balancer.domain.types import Document, Family, PersistenceMode, Scheduler, Service, SourceNatMode
from balancer.lab.errors import GaveWay, LabError
from balancer.lab.judge import (
    BY_CHANCE,
    FALSE_ALARMS,
    Expectation,
    choose_count,
    count_peers,
    find_strays,
    found_error,
    judge,
    judge_again,
    measure_endpoints,
    slots_of,
)
from balancer.lab.namespaces import NETNS_DIRECTORY
from balancer.lab.private import run_privately
from balancer.lab.rehearsal import Limits, Load, Loaded, Omitted, Rehearsal, ServiceResult
from balancer.lab.sample import Fit, Sample, draw_sample, fit_lab
from balancer.lab.summary import describe_places, describe_tour, sum_up
from balancer.lab.topology import Lab, missing_tools
from balancer.lab.traffic import list_sources
from balancer.lab.visitor import Tour, Visitor
from balancer.ruleset.access import let_everybody_in
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.parts import backend_of
from balancer.ruleset.schedulers import promised_shares

Promised = Mapping[str, Mapping[str, Fraction]]
"""Service -> endpoint -> share of new connections."""
PREFIX = "rehearsal-"


def rehearse(
    *,
    document: Document,
    load: Load,
    rulesets: Sequence[Ruleset] | None = None,
    promised: Promised | None = None,
    touched: Collection[str] | None = None,
    limits: Limits | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Rehearsal:
    """Load `rulesets` (left out: the compiled document) as a node would, and compare what real connections
    see with `promised` (left out: by weight). None for `touched` means every service.

    Needs root. Raises LabError when it cannot be rehearsed here; nothing of it is seen or left outside.
    `meanwhile` is called every half second, in the caller's thread; where it raises GaveWay, so does this,
    after the connections that are under way.
    """
    _refuse_impossible()
    limits = limits or Limits()
    started = time.monotonic()
    sample = draw_sample(document=document, touched=touched, limits=limits)
    work = _Work(
        document=document,
        sample=sample,
        promised=promised or {s.name: promised_shares(s) for s in document.services},
        limits=limits,
        deadline=started + limits.seconds,
    )
    wanted = tuple(rulesets) if rulesets is not None else compile_families(document)

    def keep_up() -> None:
        try:
            if meanwhile is not None:
                meanwhile()
        except GaveWay as reason:
            work.halted = reason

    loaded, services, late = run_privately(lambda: work.run(load=load, rulesets=wanted), meanwhile=keep_up)
    return sum_up(
        loaded=loaded,
        services=services,
        omitted=(*sample.omitted, *late),
        late=late,
        touched=None if touched is None else frozenset(touched),
        seconds=time.monotonic() - started,
    )


def compile_families(document: Document) -> tuple[Ruleset, ...]:
    """IPv4, and IPv6 where the document has services of it."""
    families = {Family.IPV4, *(service.family for service in document.services)}
    return tuple(compile_document(document, family=family) for family in sorted(families))


def _refuse_impossible() -> None:
    if os.geteuid() != 0:
        raise LabError("A rehearsal makes network namespaces, which root only may. Run this with sudo.")
    missing = missing_tools()
    if missing:
        raise LabError(f"A rehearsal needs {', '.join(missing)}, which this machine lacks.")


class _Work:
    """One rehearsal while it goes on."""

    def __init__(
        self, *, document: Document, sample: Sample, promised: Promised, limits: Limits, deadline: float
    ) -> None:
        self._document, self._sample, self._promised = document, sample, promised
        self._limits, self._deadline = limits, deadline
        services = (*sample.measured, *sample.probed)
        self._fit: Fit = fit_lab(document=document, services=services)
        self._lab = Lab(prefix=PREFIX, **self._fit.lab)
        self._visitor = Visitor(
            lab=self._lab,
            fit=self._fit,
            seconds_left=lambda: self._deadline - time.monotonic(),
            halt=self._halt,
        )
        comparisons = sum(len(promised[s.name]) for s in sample.measured)
        self._chance = FALSE_ALARMS / max(1, comparisons)
        self.halted: GaveWay | None = None
        """Set by another thread, to stop this one."""

    def run(
        self, *, load: Load, rulesets: tuple[Ruleset, ...]
    ) -> tuple[Loaded, tuple[ServiceResult, ...], tuple[Omitted, ...]]:
        name, opened = self._fit.balancer.name, tuple(map(let_everybody_in, rulesets))
        with self._lab as lab:
            place = NETNS_DIRECTORY / lab.namespace(machine=name)
            loaded = load(place, lab.directory, rulesets, self._document)
            if loaded.error is None and opened != rulesets:
                # As they are, they were loaded; the lab's clients are nobody whom a document lets in.
                loaded = replace(loaded, error=load(place, lab.directory, opened, self._document).error)
            if loaded.error is not None:
                return loaded, (), ()
            self._own_pools()
            lab.listen(machine=name, tcp_ports=self._fit.own_tcp_ports, udp_ports=self._fit.own_udp_ports)
            # One message a second to each client would be too few to tell refused from lost.
            self._write_setting("net/ipv4/icmp_ratelimit", "0")
            if lab.topology.ipv6 is not None:
                self._write_setting("net/ipv6/icmp/ratelimit", "0")
            return loaded, *self._send_all()

    def _send_all(self) -> tuple[tuple[ServiceResult, ...], tuple[Omitted, ...]]:
        done: list[ServiceResult] = []
        late: list[Omitted] = []
        parts = ((self._sample.measured, True), (self._sample.probed, False))
        for service, touched in [(service, touched) for part, touched in parts for service in part]:
            self._halt()
            if time.monotonic() < self._deadline:
                result = self._send_to(service, touched=touched)
            else:
                reason = f"the rehearsal had taken {self._limits.seconds:.0f} s already"
                result = Omitted(name=service.name, touched=touched, reason=reason)
            if isinstance(result, Omitted):
                late.append(result)
            else:
                done.append(result)
        return tuple(done), tuple(late)

    def _send_to(self, service: Service, *, touched: bool) -> ServiceResult | Omitted:
        started = time.monotonic()
        shares = self._promised[service.name]
        count = self._choose_count(service) if touched else self._limits.probes
        tour = self._visitor.tour(service, shares=shares, count=count)
        counts = tour.counts
        expected = self._expect(service, judged=touched, tour=tour, wanted=count)
        complaints = [
            *judge(expected=expected, counts=counts),
            *judge_again(tour.again),
            *self._judge_asides(expected, tour),
        ]
        if complaints and counts.lost:
            complaints += self._explain_silence(service)
        if not complaints and counts.sent < tour.planned:
            return Omitted(
                name=service.name,
                touched=touched,
                reason=f"the time was over after {counts.sent} of {tour.planned} connections",
            )
        by_chance = expected.chance is not None and shares
        return ServiceResult(
            name=service.name,
            touched=touched,
            target=f"{service.protocol} {describe_places(tour.places)}",
            passed=not complaints,
            verdict=" ".join(complaints) or describe_tour(expected=expected, tour=tour),
            sent=counts.sent,
            lost=counts.lost + (counts.refused if shares else 0),
            refused=counts.refused,
            endpoints=measure_endpoints(shares=shares, counts=counts),
            strays=find_strays(shares=shares, counts=counts),
            sources=count_peers(counts.visits),
            finds=found_error(shares=shares, count=counts.sent, chance=self._chance) if by_chance else None,
            seconds=round(time.monotonic() - started, 3),
        )

    def _choose_count(self, service: Service) -> int:
        return choose_count(
            service=service,
            shares=self._promised[service.name],
            chance=self._chance,
            limits=self._limits,
            measured=len(self._sample.measured),
        )

    def _expect(self, service: Service, *, judged: bool, tour: Tour, wanted: int) -> Expectation:
        """Shares are judged by whole cycles or parts, or by as many connections as chance takes."""
        sent, shares = tour.counts.sent, self._promised[service.name]
        whole = {
            Scheduler.ROUND_ROBIN: bool(shares) and sent % slots_of(service) == 0,
            Scheduler.FAILOVER: bool(shares) and sent % slots_of(service) == 0,
            Scheduler.SOURCE_HASH: sent == HASH_SLOTS,
        }
        complete = judged and sent == tour.planned
        exact = complete and whole.get(service.scheduler, False)
        by_chance = complete and sent == wanted and service.scheduler in BY_CHANCE
        hashed = service.scheduler is Scheduler.SOURCE_HASH and shares
        return Expectation(
            service=service,
            shares=shares,
            exact=exact,
            chance=self._chance if by_chance else None,
            balancer=str(self._visitor.own(service.family, self._fit.balancer.lan_interface)),
            backend_of=(lambda client: backend_of(client, scheduled(service)).endpoint) if hashed else None,
        )

    def _judge_asides(self, expected: Expectation, tour: Tour) -> list[str]:
        complaints = []
        for aside in tour.asides:
            # With persistence its backend may be that of a client which is kept with it.
            forget = aside.service.persistence.mode is not PersistenceMode.NONE
            asked = replace(
                expected,
                service=aside.service,
                exact=False,
                chance=None,
                backend_of=None if forget else expected.backend_of,
            )
            found = judge(expected=asked, counts=aside.counts)
            complaints += [f"Of {aside.who}: {complaint}" for complaint in found]
        return complaints

    def _explain_silence(self, service: Service) -> list[str]:
        """Whether the answers of a backend that sees clients' own addresses come by the balancer at all."""
        if service.source_nat.mode is not SourceNatMode.NONE or not service.usable_backends:
            return []
        backend = service.usable_backends[0].address
        client = list_sources(lab=self._lab, count=1, family=service.family)[0]
        gateway = str(self._visitor.own(service.family, self._fit.balancer.lan_interface))
        try:
            route = ["ip", "-json", "route", "get", client, "from", str(backend)]
            ways = json.loads(self._lab.run(machine="backends", command=route))
        except LabError:
            ways = []
        if any(way.get("gateway") == gateway for way in ways):
            return []
        return [
            f"With source NAT none backends see the client's address, and {backend} has no way back to"
            f" {client} through the node. Make the node the gateway of its backends, or choose masquerade."
        ]

    def _halt(self) -> None:
        if self.halted is not None:
            raise self.halted

    def _own_pools(self) -> None:
        routes = "".join(f"route replace local {network} dev lo\n" for network in self._fit.pools)
        self._lab.run(machine=self._fit.balancer.name, command=["ip", "-batch", "-"], text=routes)

    def _write_setting(self, key: str, value: str) -> None:
        command = ["sh", "-c", f"echo {value} > /proc/sys/{key}"]
        self._lab.run(machine=self._fit.balancer.name, command=command)
